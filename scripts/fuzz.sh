#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while, from what is kept in fuzz/seeds and what earlier runs found.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]    10 seconds for each target unless said otherwise
#
# An input that makes a target fail is left in the folder that it prints; the target's program with that file as its only argument
# shows it again.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

readonly LENGTH=${1:-10}
shift || true
readonly TARGET=$(realpath -m "${CARGO_TARGET_DIR:-../target}")/fuzz
[ $# -gt 0 ] || set -- $(basename -s .rs src/bin/*.rs)

# What cargo-fuzz passes, without the sanitizers: those take a nightly compiler, and find what safe Rust does not have.
passed=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-{level=4,inline-8bit-counters,pc-table,trace-compares}
)
# With the versions of everything that the mesh itself is built with.
cp ../Cargo.lock Cargo.lock
RUSTFLAGS="${passed[*]}" CARGO_TARGET_DIR=$TARGET cargo build --release --quiet \
    --target "$(rustc -vV | sed -n 's/^host: //p')" --bins

for name in "$@"; do
    found=$TARGET/found/$name
    mkdir -p "$found/inputs" "$found/failures"
    echo "fuzz: $name for $LENGTH seconds"
    "$TARGET"/*/release/"$name" "$found/inputs" "seeds/$name" -max_total_time="$LENGTH" -timeout=10 -rss_limit_mb=4096 \
        -max_len=65536 -artifact_prefix="$found/failures/" -print_final_stats=1 >"$found/log" 2>&1 || {
        tail -40 "$found/log" >&2
        echo "fuzz: $name failed; its input is in $found/failures" >&2
        exit 1
    }
    sed -n 's/^stat::number_of_executed_units: */fuzz:   inputs tried: /p' "$found/log"
    sed -n '/cov:/h; ${x; s/.*\(cov: [0-9]*\).*/fuzz:   \1/p}' "$found/log"
done
