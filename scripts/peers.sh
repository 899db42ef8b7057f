#!/usr/bin/env bash
# Installs the Debian packages that Tulle's build, tests and bench use. Does nothing where they are present.
#
#   scripts/peers.sh build    a C compiler and make: the cryptography and the allocator contain C
#   scripts/peers.sh test     what `make test` needs
#   scripts/peers.sh runtime  container runtimes; without them two tests say that they are skipped
#   scripts/peers.sh bench    what `make bench` needs besides: web server and load generators
#   scripts/peers.sh check    the same list, nothing installed; fails where something is missing
set -euo pipefail

# Servers and network plugins live where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/cni

# One line per program: the program, and the package that has it.
readonly BUILD='
cc      gcc
make    make
'
readonly TEST='
nft     nftables
'
readonly RUNTIME='
containerd  containerd
runc        runc
ptp         containernetworking-plugins
go          golang-go
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
    bench) echo "$BUILD$BENCH" ;;
    check) echo "$BUILD$TEST$BENCH" ;;
    *)
        echo "usage: scripts/peers.sh build|test|runtime|bench|check" >&2
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

# CRI-O has no package. The library that makes it execute plugins is built into a small program.
build_crio() {
    local target
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/peers/crio
    cd "$(dirname "$0")/../tests/crio"
    CGO_ENABLED=0 GOTOOLCHAIN=local go build -o "$target" . || {
        echo "peers: cannot build tests/crio, which takes Go and its modules" >&2
        return 1
    }
}

main() {
    local programs
    programs=$(wanted "${1-}")
    provide "$1" "$programs"
    if [ "$1" = runtime ]; then build_crio; fi
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
    LOG=$(mktemp)
    trap 'rm -f "$LOG"' EXIT
    install "$packages"
    packages=$(missing "$programs")
    if [ -n "$packages" ]; then
        echo "peers: installed, but its program is still not found:" $packages >&2
        return 1
    fi
}

main "$@"
