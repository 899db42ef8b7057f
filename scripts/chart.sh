#!/usr/bin/env bash
# The Helm chart, and the manifest that is rendered from it for those without Helm.
#
#   scripts/chart.sh render   writes deploy/tulle.yaml
#   scripts/chart.sh check    fails if that is not what the chart renders to, if the chart is not in order, or if a preset is not;
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

rendered() {
    "$ENVIRONMENT/bin/python" - "$1" <<'PYTHON'
import pathlib
import sys

import helm_python

chart = helm_python.Chart.load("deploy/chart")


def render(values):
    chart.validate_schema(values)
    files = chart.render(values, name="tulle", namespace="istio-system")
    return [text.strip() for name, text in sorted(files.items()) if not name.endswith(".txt")]


if sys.argv[1] == "check":
    problems = [m for m in helm_python.lint("deploy/chart")["messages"] if m["severity"] > 1]
    if problems:
        sys.exit(f"chart: {problems}")
    everything = {
        "metrics": {"monitors": True},
        "networkPolicy": {"enabled": True},
        "tulled": {"istiodService": True},
    }
    presets = pathlib.Path("deploy/chart/presets").glob("*.yaml")
    for values in [everything, *(helm_python.values_from_yaml(p.read_text()) for p in sorted(presets))]:
        render(values)
    for wrong in [{"unknown": 1}, {"node": {"cniBinDir": "relative"}}, {"tulled": {"replicas": 0}}]:
        try:
            render(wrong)
        except helm_python.HelmValuesError:
            continue
        sys.exit(f"chart: values that cannot be are taken: {wrong}")

print("# Rendered from deploy/chart by scripts/chart.sh: the mesh with every value at its default.")
print("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: istio-system\n  labels:\n    pod-security.kubernetes.io/enforce: privileged")
texts = [definition["data"] for definition in chart.crds] + render({})
for text in texts:
    text = "\n".join(line for line in text.splitlines() if line.strip()).removeprefix("---").strip()
    if text:
        print("---")
        print(text.replace("managed-by: Helm", "managed-by: tulle"))
PYTHON
}

case ${1-} in
render)
    provide >&2
    rendered render >deploy/tulle.yaml.new
    mv deploy/tulle.yaml.new deploy/tulle.yaml
    ;;
check)
    if ! provide >&2; then
        echo "chart: skipped, there is no Python with venv, or helm-python-sdk cannot be had" >&2
        exit 0
    fi
    manifest=$(mktemp)
    trap 'rm -f "$manifest"' EXIT
    if ! rendered check >"$manifest"; then
        echo "chart: it cannot be rendered" >&2
        exit 1
    fi
    diff -u deploy/tulle.yaml "$manifest" || {
        echo "chart: deploy/tulle.yaml is not what the chart renders to; run scripts/chart.sh render" >&2
        exit 1
    }
    ;;
*)
    echo "usage: scripts/chart.sh render|check" >&2
    exit 2
    ;;
esac
