#!/usr/bin/env bash
# Fuzzes every target: seeds of the hostile corpus and regressions first, then random damage.
#
#   scripts/fuzz.sh                  bounded: 60 s in all, under cargo test (no coverage feedback)
#   scripts/fuzz.sh --long SECONDS [TARGET...]
#                                    libFuzzer with the address sanitizer, SECONDS for each target;
#                                    needs cargo-fuzz: cargo install --locked cargo-fuzz
#   scripts/fuzz.sh --fast SECONDS [TARGET...]
#                                    the same without the sanitizer: many times as many runs
#
# An input that fails is kept in fuzz/artifacts/TARGET: copy it to fuzz/regressions/TARGET,
# fix the defect, add a line to fuzz/FINDINGS.md.
set -euo pipefail
cd "$(dirname "$0")/.."

reader="squizd sealed prefix sections"
others="codec gguf safetensors index config sentencepiece tokenizer template metadata"

if [ $# -eq 0 ]; then
  SQUIZD_FUZZ_SECONDS=60 exec cargo test --locked -p squizd-hostile --test replay -- --nocapture
fi

mode=$1
seconds=${2:?seconds for each target}
shift 2
targets=${*:-$reader $others}
case $mode in
  --long) sanitizer=address ;;
  --fast) sanitizer=none ;;
  *) echo "fuzz.sh: unknown mode $mode" >&2; exit 2 ;;
esac

# cargo-fuzz's instrumentation flags are nightly's; the builds of the product never set this.
export RUSTC_BOOTSTRAP=1
SQUIZD_SEEDS=$PWD/fuzz/seeds cargo test --locked -q -p squizd-hostile --test replay write_seeds -- --ignored
failed=0
for target in $targets; do
  features=
  case " $reader " in *" $target "*) features=--no-default-features ;; esac
  mkdir -p "fuzz/corpus/$target" "fuzz/regressions/$target"
  # shellcheck disable=SC2086
  cargo fuzz run $features -s $sanitizer "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" "fuzz/regressions/$target" -- \
    -max_total_time="$seconds" -max_len=131072 -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=60 -print_final_stats=1 || failed=1
done
exit $failed
