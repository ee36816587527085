#!/usr/bin/env bash
# Runs the tests of this crate under AddressSanitizer and ThreadSanitizer, with stable Rust, and those of
# datapath's several workers under ThreadSanitizer.
# The standard library is not rebuilt: what is instrumented is these crates and what they are made of.
#
#   sanitize.sh [address|thread]...     both without arguments
#
# ThreadSanitizer runs the tests that have threads, twice. First with plain copies: data must be
# ordered by the rings' own acquire and release, so the one test whose driver breaks that on purpose
# is left out. Then that test alone, with copies made of atomics (feature atomic_copy). Last the workers,
# with locks that it sees (feature seen_locks).
# Each crate's sanitize.supp says what is suppressed, and why. A run whose filter matches no test fails.
set -euo pipefail
cd "$(dirname "$0")"
target=x86_64-unknown-linux-gnu
rewriting=a_driver_that_rewrites_everything_meanwhile
export RUSTC_BOOTSTRAP=1
# Build directories of their own: other flags, other artefacts.
root=${CARGO_TARGET_DIR:-../../target}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() { # NAME RUSTFLAGS CARGO-ARGUMENTS...
    local name=$1 flags=$2
    shift 2
    RUSTFLAGS="$flags" CARGO_TARGET_DIR="$root/sanitize-$name" \
        cargo test -q --target "$target" "$@" | tee "$log"
    grep -q '^test result: ok\. [1-9]' "$log" || {
        echo "sanitize.sh: no test ran under the $name sanitizer: cargo test $*" >&2
        exit 1
    }
}

[ $# -gt 0 ] || set -- address thread
for name in "$@"; do
    case $name in
    address)
        # Its SIGBUS and SIGSEGV handlers would stand in the way of the tests for ours.
        export ASAN_OPTIONS=handle_sigbus=0:handle_segv=0:detect_leaks=1
        run address -Zsanitizer=address -p virtqueue --lib
        ;;
    thread)
        options=handle_sigbus=0:handle_segv=0:halt_on_error=1
        flags="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
        export TSAN_OPTIONS=$options:suppressions=$PWD/sanitize.supp
        run thread "$flags" -p virtqueue --lib -- race:: --skip "$rewriting"
        run thread "$flags" -p virtqueue --lib --features atomic_copy -- "$rewriting"
        export TSAN_OPTIONS=$options:suppressions=$PWD/../datapath/sanitize.supp
        run thread "$flags" -p datapath --test two_ports --features seen_locks -- several_workers::
        ;;
    *)
        echo "sanitize.sh: unknown sanitizer '$name'" >&2
        exit 2
        ;;
    esac
done
