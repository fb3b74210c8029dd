#!/usr/bin/env bash
# The main job on the tiny trained model that the repository ships: convert,
# validate, inspect, and one sentence generated.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked -p squizd-tools
squizd=${CARGO_TARGET_DIR:-target}/release/squizd
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
step() { printf '\n$ squizd %s\n' "$*"; "$squizd" "$@"; }

step convert fixtures/tiny-qwen3-1m -o "$out/tiny.squizd"
step validate --level decode "$out/tiny.squizd"
step inspect "$out/tiny.squizd"
step run "$out/tiny.squizd" --prompt "In the beginning God created" -n 24 --temp 0
