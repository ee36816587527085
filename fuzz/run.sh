#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while, two at a time.
#
#   run.sh [TARGET]...      all without arguments
#   SECONDS_EACH=20         how long each runs
#
# Plain cargo, with the flags that cargo-fuzz would set: nothing has to be installed but a C++
# compiler for libFuzzer. AddressSanitizer comes with stable Rust, behind RUSTC_BOOTSTRAP. What is
# found lies in fuzz/artifacts/TARGET; run.sh fails then, and says how to repeat it. The corpus in
# fuzz/corpus/TARGET grows from run to run; fuzz/seeds/TARGET is where it starts.
#
# A fuzzer that does not see which way its inputs went finds next to nothing: run.sh fails as well
# if a target's coverage is not counted.
set -euo pipefail
cd "$(dirname "$0")"
each=${SECONDS_EACH:-20}
target=x86_64-unknown-linux-gnu
# Places in the code that every target reaches at the very least.
least=5
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="${coverage//$'\n'/ } -Zsanitizer=address --cfg fuzzing"
# A build directory of its own: other flags, other artefacts.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-../target}/fuzz
# The base's own handlers for torn memory are part of what is tested.
export ASAN_OPTIONS=handle_sigbus=0:detect_leaks=1

if [ $# -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -vx fuzz)
else
    targets=("$@")
fi
cargo build --locked --release --target "$target" $(printf -- '--bin %s ' "${targets[@]}")

fuzz() { # TARGET
    mkdir -p "corpus/$1" "artifacts/$1"
    local log="artifacts/$1/log" dictionary=()
    local folders=("corpus/$1")
    [ ! -d "seeds/$1" ] || folders+=("seeds/$1")
    [ ! -f "seeds/$1.dict" ] || dictionary=("-dict=seeds/$1.dict")
    if "$CARGO_TARGET_DIR/$target/release/$1" "${folders[@]}" "${dictionary[@]}" \
        "-artifact_prefix=artifacts/$1/" "-max_total_time=$each" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 -use_value_profile=0 -print_final_stats=1 >"$log" 2>&1; then
        local covered
        covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
        if [ "${covered:-0}" -lt "$least" ]; then
            tail -20 "$log"
            echo "fuzz $1: BLIND: coverage ${covered:-none}, less than $least: the compiler's flags for" \
                "coverage in run.sh do not work"
            return 1
        fi
        echo "fuzz $1: $(sed -n 's/^Done \(.*\)$/\1/p' "$log"), cov: $covered"
    else
        tail -60 "$log"
        echo "fuzz $1: FOUND something; again: $CARGO_TARGET_DIR/$target/release/$1 artifacts/$1/FILE"
        return 1
    fi
}

failed=0
while [ ${#targets[@]} -gt 0 ]; do
    pair=("${targets[@]:0:2}")
    targets=("${targets[@]:2}")
    running=()
    for one in "${pair[@]}"; do
        fuzz "$one" &
        running+=($!)
    done
    for process in "${running[@]}"; do wait "$process" || failed=1; done
done
exit $failed
