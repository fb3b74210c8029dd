#!/usr/bin/env bash
# Benchmarks the format's variants over the models of the list and any local
# ones, and writes docs/BENCHMARK_SQUIZD_FORMAT.md.
#
#   scripts/run_squizd_format_benchmark.sh [options] [NAME=SOURCE ...]
#
# SOURCE is a Hugging Face folder or a GGUF file. Models of the list are taken
# from the local Hugging Face cache (HF_HUB_CACHE, else HF_HOME/hub); those that
# are not there are skipped and named. Nothing is downloaded.
#
#   --squizd FILE        binary [target/release/squizd]
#   --work FOLDER        converted files [target/benchmark]
#   --output FILE        document [docs/BENCHMARK_SQUIZD_FORMAT.md]
#   --note TEXT          a line about the circumstances, for the document
#   -p N, -n N, -r N     prompt tokens, decoding steps, trials [128, 64, 30]
#   --llama-cpp PYTHON   Python with llama-cpp-python and gguf: the same model at
#                        the nearest quantization, trial by trial
set -euo pipefail
cd "$(dirname "$0")/.."

squizd=target/release/squizd work=target/benchmark output=docs/BENCHMARK_SQUIZD_FORMAT.md note= llama=
p=128 n=64 r=30
models=()
while [ $# -gt 0 ]; do
  case $1 in
    --squizd) squizd=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    --output) output=$2; shift 2 ;;
    --note) note=$2; shift 2 ;;
    --llama-cpp) llama=$2; shift 2 ;;
    -p) p=$2; shift 2 ;;
    -n) n=$2; shift 2 ;;
    -r) r=$2; shift 2 ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *=*) models+=("$1"); shift ;;
    *) echo "$1: must be NAME=SOURCE" >&2; exit 2 ;;
  esac
done
[ -x "$squizd" ] || { echo "$squizd is not there: cargo build --release -p squizd-tools, or --squizd FILE" >&2; exit 2; }
mkdir -p "$work"

# The 21 models, by repository.
list=(
  Qwen/Qwen2.5-1.5B Qwen/Qwen2.5-7B Qwen/Qwen3-0.6B Qwen/Qwen3-1.7B Qwen/Qwen3-4B Qwen/Qwen3-8B Qwen/Qwen3-14B
  Qwen/Qwen3-30B-A3B Qwen/Qwen3.5-35B-A3B meta-llama/Llama-3.1-8B meta-llama/Llama-3.2-3B meta-llama/Llama-3.3-8B
  microsoft/Phi-4-mini-instruct microsoft/phi-4 HuggingFaceTB/SmolLM2-1.7B HuggingFaceTB/SmolLM3-3B
  mistralai/Mistral-7B-v0.3 mistralai/Mistral-Nemo-Base-2407 deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
  deepseek-ai/DeepSeek-R1-Distill-Llama-8B google/gemma-3-4b-it
)
cache=${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}
skipped=()
for repository in "${list[@]}"; do
  snapshot=$(ls -d "$cache/models--${repository/\//--}/snapshots"/*/ 2>/dev/null | tail -n 1 || true)
  if [ -n "$snapshot" ]; then
    models+=("${repository##*/}=$snapshot")
  else
    skipped+=("$repository")
  fi
done

# Variant and codec. int4-sparse has none: `convert` does not train predictors.
variants=("astc=astc" "int4=int4" "full=sqint2-routed")

# The GGUF of a source, for llama.cpp; nothing where it cannot be made.
gguf_of() {
  local name=$1 source=$2
  [ -n "$llama" ] || return 0
  if [ -f "$source" ]; then
    echo "$source"
  elif "$llama" -c 'import sys; sys.path.insert(0, "scripts"); import results_table; results_table.write_gguf(*sys.argv[1:])' \
    "$source" "$work/$name.gguf" >&2; then
    echo "$work/$name.gguf"
  fi
}

body=$work/body.md
: > "$body"
failed=()
for model in "${models[@]}"; do
  name=${model%%=*} source=${model#*=}
  files=()
  for variant in "${variants[@]}"; do
    file=$work/$name-${variant%%=*}.squizd
    if "$squizd" convert "$source" -o "$file" --codec "${variant#*=}" --allow-requantize --force -q > "$work/log" 2>&1; then
      files+=("$file")
    else
      failed+=("$name, ${variant%%=*}: $(tail -n 1 "$work/log")")
    fi
  done
  [ ${#files[@]} -gt 0 ] || continue
  arguments=(-p "$p" -n "$n" -r "$r")
  gguf=$(gguf_of "$name" "$source")
  if [ -n "$gguf" ]; then
    arguments+=(--gguf "$gguf" --llama-cpp "$llama")
  fi
  echo "$name" >&2
  if "$squizd" bench "${files[@]}" "${arguments[@]}" > "$work/table.md" 2> "$work/log"; then
    { echo "## $name"; echo; cat "$work/table.md"; echo; } >> "$body"
  else
    failed+=("$name: $(tail -n 1 "$work/log")")
  fi
done

{
  cat <<TEXT
# Benchmark of the format's variants

Written by \`scripts/run_squizd_format_benchmark.sh\` (\`squizd bench\`, $r trials of $p prompt tokens and $n decoding steps). Compare numbers within a model's tables only: its files and llama.cpp are measured one after the other or in turns on the same machine.
${note:+
$note
}
What the variants are:

| variant | here |
|---|---|
| astc | \`--codec astc\` |
| int4 | \`--codec int4\` |
| int4-sparse | not made: INT4 with the SPARSE appendix, whose predictors \`convert\` cannot train yet |
| full | \`--codec sqint2-routed\`; its SPARSE and EAGLE parts are not made yet |

The first token counts from the request, prompt included, on a loaded model. Percentiles are of the trials: for rates P95 is a fast trial, for times a slow one. The share is payload bytes of a step times steps per second over the read bandwidth of the same trial; a file that fits a cache can exceed 100 %, and what a codec computes per byte keeps it below. llama.cpp runs fixed tokens without sampling, as its own llama-bench does.

TEXT
  cat "$body"
  echo "## Skipped"
  echo
  [ ${#skipped[@]} -eq 0 ] || echo "Not in the local Hugging Face cache: $(printf '%s, ' "${skipped[@]}" | sed 's/, $//')."
  for line in "${failed[@]:-}"; do
    [ -z "$line" ] || { echo; echo "Failed: $line"; }
  done
} > "$output"
echo "$output" >&2
