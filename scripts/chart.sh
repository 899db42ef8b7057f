#!/usr/bin/env bash
# The Helm chart, and the manifests that are rendered from it for those without Helm.
#
#   scripts/chart.sh render   writes deploy/tulle.yaml, to deploy/platforms what is different in it with each preset, and to tests/chart
#                             what is if values ask for all that there is, for a test to show to an API server
#   scripts/chart.sh check    fails if those are not what the chart renders to, if the chart is not in order, or if a preset is not;
#                             without Python and the package helm-python-sdk it says so and does nothing
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ENVIRONMENT=$(realpath -m "${CARGO_TARGET_DIR:-target}")/peers/helm

# Helm as a Python package, in an environment of its own.
provide() {
    [ ! -e "$ENVIRONMENT/ready" ] || return 0
    rm -rf "$ENVIRONMENT"
    python3 -m venv "$ENVIRONMENT" && "$ENVIRONMENT/bin/pip" -q install helm-python-sdk==0.2.2 || return 1
    touch "$ENVIRONMENT/ready"
}

# Writes all manifests below a folder: rendered render|check FOLDER
rendered() {
    mkdir -p "$2/platforms"
    "$ENVIRONMENT/bin/python" - "$@" <<'PYTHON'
import pathlib
import re
import sys

import helm_python

chart = helm_python.Chart.load("deploy/chart")

# All that is not there by default.
EVERYTHING = {
    "logFormat": "json",
    "image": {"pullSecrets": ["registry"]},
    "metrics": {"monitors": True, "annotations": False},
    "networkPolicy": {"enabled": True},
    "waypoint": {"enabled": False},
    "tulled": {"istiodService": True, "caSecret": "cacerts", "advertise": ["mesh.example"]},
    "node": {
        "uninstall": True,
        "excludeNamespaces": ["kube-system", "other"],
        "ambient": {"enablementSelectors": [{"podSelector": {"matchLabels": {"mesh": "on"}}}]},
    },
}


def render(values):
    chart.validate_schema(values)
    files = chart.render(values, name="tulle", namespace="istio-system")
    return [text.strip() for name, text in sorted(files.items()) if not name.endswith(".txt")]


if sys.argv[1] == "check":
    problems = [m for m in helm_python.lint("deploy/chart")["messages"] if m["severity"] > 1]
    if problems:
        sys.exit(f"chart: {problems}")
    presets = pathlib.Path("deploy/chart/presets").glob("*.yaml")
    for values in [EVERYTHING, *(helm_python.values_from_yaml(p.read_text()) for p in sorted(presets))]:
        render(values)
    for wrong in [{"unknown": 1}, {"node": {"cniBinDir": "relative"}}, {"tulled": {"replicas": 0}}]:
        try:
            render(wrong)
        except helm_python.HelmValuesError:
            continue
        sys.exit(f"chart: values that cannot be are taken: {wrong}")


def without_blanks(text):
    return "\n".join(line for line in text.splitlines() if line.strip())


def documents(values):
    texts = []
    for text in render(values):
        for document in without_blanks(text).split("\n---\n"):
            document = document.removeprefix("---").strip()
            if document:
                texts.append(document.replace("managed-by: Helm", "managed-by: tulle"))
    return texts


NAMESPACE = """apiVersion: v1
kind: Namespace
metadata:
  name: istio-system
  labels:
    pod-security.kubernetes.io/enforce: privileged"""


def write(path, title, texts):
    title = f"# Rendered from deploy/chart by scripts/chart.sh: {title}\n"
    pathlib.Path(path).write_text(title + "\n---\n".join(texts) + "\n")


folder = sys.argv[2]
usual = documents({})
definitions = [without_blanks(definition["data"]) for definition in chart.crds]
write(f"{folder}/tulle.yaml", "the mesh with every value at its default.", [NAMESPACE, *definitions, *usual])
special = [text for text in documents(EVERYTHING) if text not in usual]
write(f"{folder}/everything.yaml", "what is different if values ask for all that there is.", special)
for preset in sorted(pathlib.Path("deploy/chart/presets").glob("*.yaml")):
    special = documents(helm_python.values_from_yaml(preset.read_text()))
    names = lambda texts: {re.search(r"^kind: .*\nmetadata:\n  name: .*$", text, re.M).group(0) for text in texts}
    if names(usual) - names(special):
        sys.exit(f"chart: preset {preset.stem} lacks {names(usual) - names(special)}")
    special = [text for text in special if text not in usual]
    write(f"{folder}/platforms/{preset.stem}.yaml", f"what is different with preset {preset.stem}.", special)
PYTHON
}

case ${1-} in
render)
    provide >&2
    rendered render deploy
    mkdir -p tests/chart
    mv deploy/everything.yaml tests/chart/
    ;;
check)
    if ! provide >&2; then
        echo "chart: skipped, there is no Python with venv, or helm-python-sdk cannot be had" >&2
        exit 0
    fi
    manifests=$(mktemp -d)
    trap 'rm -rf "$manifests"' EXIT
    if ! rendered check "$manifests"; then
        echo "chart: it cannot be rendered" >&2
        exit 1
    fi
    for manifest in deploy/tulle.yaml deploy/platforms tests/chart/everything.yaml; do
        diff -ru "$manifest" "$manifests/${manifest##*/}" || {
            echo "chart: $manifest is not what the chart renders to; run scripts/chart.sh render" >&2
            exit 1
        }
    done
    ;;
*)
    echo "usage: scripts/chart.sh render|check" >&2
    exit 2
    ;;
esac
