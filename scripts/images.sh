#!/usr/bin/env bash
# The container images of the mesh, for this machine's architecture.
#
#   scripts/images.sh [REGISTRY [TAG]]   by default localhost/tulle and the version of the chart
#
# Compiles static executables (PROFILE=dev is quicker and larger), builds an image of each with buildah, podman or docker, whichever
# there is, and starts every executable in its image. Where there is none, buildah is installed (Debian). Nothing is pushed.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ "${1:-}" != -* ]] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 0; }
readonly REGISTRY=${1:-localhost/tulle}
readonly TAG=${2:-$(sed -n 's/^appVersion: *//p' deploy/chart/Chart.yaml)}
readonly PROFILE=${PROFILE:-release}
readonly TARGET_DIR=${CARGO_TARGET_DIR:-target}
readonly TRIPLE=$(uname -m)-unknown-linux-gnu
readonly IMAGES=(tulled ztunnel waypoint tulle-node)
readonly EXECUTABLES=("${IMAGES[@]}" tulle-cni)

fail() {
    echo "images: $*" >&2
    exit 1
}

# The C library in the executables finds names by itself; nothing of it is looked for at run time. Only with the target named does
# Cargo keep this from what runs while compiling.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" ${CARGO:-cargo} build --locked --profile "$PROFILE" --target "$TRIPLE" \
    -p tulle-control-plane -p tulle-ztunnel -p tulle-waypoint -p tulle-cni-plugin --bins
readonly BUILT=$TARGET_DIR/$TRIPLE/${PROFILE/#dev/debug}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for executable in "${EXECUTABLES[@]}"; do
    dynamic=$(readelf --dynamic "$BUILT/$executable")
    [[ $dynamic != *NEEDED* ]] || fail "$executable needs libraries, which its image does not have"
    install -m 0755 "$BUILT/$executable" "$folder/"
done

tool=
for candidate in buildah podman docker; do
    if command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
        tool=$candidate
        break
    fi
done
if [ -z "$tool" ]; then
    command -v apt-get >/dev/null || fail "install buildah, podman or docker"
    echo "installing buildah"
    apt-get update -qq && apt-get install -qq -y --no-install-recommends buildah >/dev/null || fail "buildah cannot be installed"
    tool=buildah
fi

# Starts an executable of an image: started IMAGE PATH
started() {
    if [ "$tool" != buildah ]; then
        "$tool" run --rm --entrypoint "$2" "$1" --version
        return
    fi
    local container status=0
    container=$(buildah from "$1")
    buildah run --isolation chroot "$container" "$2" --version || status=$?
    buildah rm "$container" >/dev/null
    return "$status"
}

for image in "${IMAGES[@]}"; do
    name=$REGISTRY/$image:$TAG
    build=("$tool" build)
    [ "$tool" = buildah ] && build+=(--isolation chroot)
    "${build[@]}" -q -f deploy/images/Containerfile --target "$image" -t "$name" "$folder" >/dev/null
    started "$name" "/$image" || fail "/$image does not start in $name"
    [ "$image" != tulle-node ] || started "$name" /tulle-cni || fail "/tulle-cni does not start in $name"
    echo "$name"
done
