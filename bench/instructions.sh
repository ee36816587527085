#!/bin/sh
# bench/instructions.sh check|write: counts the instructions of the base for a datagram, and compares
# them with bench/instructions.toml or writes them there.
set -eu
cd "$(dirname "$0")/.."
exec cargo run -q --locked --profile counted -p bench --no-default-features \
    --bin instructions -- "$1"
