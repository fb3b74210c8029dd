#!/usr/bin/env bash
# Benchmarks the format's variants, and every codec, over the models of the list
# and local ones, beside llama.cpp's Q4_0, Q4_1 and Q4_K of the same source, and
# writes docs/BENCHMARK_SQUIZD_FORMAT.md.
#
#   scripts/run_squizd_format_benchmark.sh [options] [NAME=SOURCE ...]
#
# SOURCE is a Hugging Face folder or a GGUF file. Without any, the two models of
# the bars are taken where they are found: SmolLM2 (the GGUF file that
# SQUIZD_SMOLLM2 names) and natural-qwen3-28m (under SQUIZD_SHARED, else
# ../shared, shared). Models of the list of 21 are taken from the local Hugging
# Face cache (HF_HUB_CACHE, else HF_HOME/hub). What is not there is skipped and
# named. Nothing is downloaded or built: it runs with a binary alone.
#
#   SQUIZD=FILE          binary [target/release/squizd]
#   PYTHON=FILE          Python with llama-cpp-python, gguf and numpy [SQUIZD_PYTHON, else python3 if it
#                        has them]; without one, llama-bench if it is on the PATH. A build of
#                        llama-cpp-python with AMX crashes in some virtual machines: then build it with
#                        CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON
#                        -DGGML_BMI2=ON -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON"
#   --backend NAME       where squizd runs: cpu, gpu or auto [cpu]
#   --cores LIST         pin what is measured to these cores (taskset), such as 0,1
#   --minutes M          end after about M minutes, in fewer trials where they do not suffice
#   --work FOLDER        converted files [target/benchmark]
#   --reuse              take converted files that are there already
#   --output FILE        document [docs/BENCHMARK_SQUIZD_FORMAT.md]
#   --note TEXT          a line about the circumstances, for the document
#   --open-gb GB         size of the file to be opened; 0 leaves that out [1]
#   -p N, -n N, -r N     prompt tokens, decoding steps, trials [128, 64, 30]
set -euo pipefail
cd "$(dirname "$0")/.."

squizd=${SQUIZD:-target/release/squizd} python=${PYTHON:-${SQUIZD_PYTHON:-}}
work=target/benchmark output=docs/BENCHMARK_SQUIZD_FORMAT.md
note='' backend=cpu cores='' minutes='' reuse='' open_gb=1
p=128 n=64 r=30
models=()
# As it was called, without this machine's folders.
called=$(printf '%s' "${*:+ $*}" | sed -E 's#(=| )/([^ /]*/)*#\1#g')
while [ $# -gt 0 ]; do
  case $1 in
    --backend) backend=$2; shift 2 ;;
    --cores) cores=$2; shift 2 ;;
    --minutes) minutes=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    --reuse) reuse=1; shift ;;
    --output) output=$2; shift 2 ;;
    --note) note=$2; shift 2 ;;
    --open-gb) open_gb=$2; shift 2 ;;
    -p) p=$2; shift 2 ;;
    -n) n=$2; shift 2 ;;
    -r) r=$2; shift 2 ;;
    -h|--help) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *=*) models+=("$1"); shift ;;
    *) echo "$1: must be NAME=SOURCE" >&2; exit 2 ;;
  esac
done
command -v "$squizd" > /dev/null || { echo "$squizd is not there: cargo build --release -p squizd-tools, or SQUIZD=FILE" >&2; exit 2; }
case $minutes in *[!0-9]*) echo "--minutes $minutes: must be a whole number" >&2; exit 2 ;; esac
if [ -z "$python" ] && python3 -c 'import llama_cpp, gguf, numpy' 2> /dev/null; then python=python3; fi
pinned=()
if [ -n "$cores" ]; then pinned=(taskset -c "$cores"); fi
mkdir -p "$work"
deadline=$(( SECONDS + ${minutes:-0} * 60 ))

skipped=() failed=()
if [ ${#models[@]} -eq 0 ]; then
  if [ -f "${SQUIZD_SMOLLM2:-}" ]; then
    models+=("SmolLM2-135M=$SQUIZD_SMOLLM2")
  else
    skipped+=("SmolLM2-135M (SQUIZD_SMOLLM2 names no GGUF file)")
  fi
  found=
  for folder in ${SQUIZD_SHARED:+"$SQUIZD_SHARED"} ../shared shared; do
    if [ -z "$found" ] && [ -f "$folder/models/natural-qwen3-28m/config.json" ]; then
      found=$folder/models/natural-qwen3-28m
    fi
  done
  if [ -n "$found" ]; then
    models+=("natural-qwen3-28m=$found")
  else
    skipped+=("natural-qwen3-28m (not under SQUIZD_SHARED, ../shared or shared)")
  fi
fi

# The 21 models, by repository.
list=(
  Qwen/Qwen2.5-1.5B Qwen/Qwen2.5-7B Qwen/Qwen3-0.6B Qwen/Qwen3-1.7B Qwen/Qwen3-4B Qwen/Qwen3-8B Qwen/Qwen3-14B
  Qwen/Qwen3-30B-A3B Qwen/Qwen3.5-35B-A3B meta-llama/Llama-3.1-8B meta-llama/Llama-3.2-3B meta-llama/Llama-3.3-8B
  microsoft/Phi-4-mini-instruct microsoft/phi-4 HuggingFaceTB/SmolLM2-1.7B HuggingFaceTB/SmolLM3-3B
  mistralai/Mistral-7B-v0.3 mistralai/Mistral-Nemo-Base-2407 deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
  deepseek-ai/DeepSeek-R1-Distill-Llama-8B google/gemma-3-4b-it
)
cache=${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}
missing=()
for repository in "${list[@]}"; do
  snapshot=$(ls -d "$cache/models--${repository/\//--}/snapshots"/*/ 2> /dev/null | tail -n 1 || true)
  if [ -n "$snapshot" ]; then
    models+=("${repository##*/}=$snapshot")
  else
    missing+=("$repository")
  fi
done

# Variants of the format besides INT4, and their recipes; then the codecs that are
# none. Of the variants, int4-sparse has no recipe: `convert` does not train predictors.
variants=("astc=astc" "full=sqint2-routed")
codecs=("q8=q8" "mxfp4=mxfp4" "int3=int3" "int2=int2" "hybrid=hybrid --target-bpw 4.5" "sqint2=sqint2" "lossless=lossless")

# Converts $source by each recipe of its arguments; sets `files`.
convert_all() {
  local recipe label file
  files=()
  for recipe in "$@"; do
    label=${recipe%%=*} file=$work/$name-${recipe%%=*}.squizd
    if [ -n "$reuse" ] && [ -f "$file" ]; then
      files+=("$file")
      continue
    fi
    # Nothing is judged by its text here, so recipes that are refused for their quality are forced.
    # shellcheck disable=SC2086
    if "$squizd" convert "$source" -o "$file" --codec ${recipe#*=} --allow-requantize --force -q > "$work/log" 2>&1; then
      files+=("$file")
    else
      failed+=("$name, $label: $(tail -n 1 "$work/log")")
    fi
  done
}

# The GGUF of $source, for llama.cpp; sets `gguf`, empty where it cannot be made.
find_gguf() {
  gguf=
  if [ -f "$source" ]; then
    gguf=$source
  elif [ -n "$python" ]; then
    gguf=$work/$name.gguf
    if ! "$python" -c 'import sys; sys.path.insert(0, "scripts"); import results_table; results_table.write_gguf(*sys.argv[1:])' \
      "$source" "$gguf" 2> "$work/log"; then
      failed+=("$name, GGUF for llama.cpp: $(tail -n 1 "$work/log")")
      gguf=
    fi
  fi
}

# bench TITLE SECONDS FILE... -- ARGUMENTS: a section of the document; SECONDS may be empty.
# Where llama.cpp (`llama`) does not run, squizd is measured alone.
bench() {
  local title=$1 limit=$2 given=()
  shift 2
  while [ "$1" != -- ]; do given+=("$1"); shift; done
  shift
  [ ${#given[@]} -gt 0 ] || return 0
  [ -z "$limit" ] || set -- "$@" --time-limit "$(( limit > 5 ? limit : 5 ))"
  echo "$title" >&2
  local command=("${pinned[@]}" "$squizd" bench "${given[@]}" "$@" -q)
  if ! "${command[@]}" "${llama[@]}" > "$work/table.md" 2> "$work/log"; then
    failed+=("$title: $(tail -n 1 "$work/log")")
    [ ${#llama[@]} -gt 0 ] || return 0
    "${command[@]}" > "$work/table.md" 2> "$work/log" || return 0
  fi
  { printf '## %s\n\n' "$title"; cat "$work/table.md"; echo; } >> "$body"
}

body=$work/body.md llama=()
: > "$body"
if [ "$open_gb" != 0 ]; then
  if ! [ -f "$work/opened.squizd" ]; then
    "${python:-python3}" scripts/sparse_llama.py "$work/opened" "$open_gb" > "$work/log" 2>&1 &&
      "$squizd" convert "$work/opened" -o "$work/opened.squizd" --codec raw -q >> "$work/log" 2>&1 ||
      failed+=("file to be opened: $(tail -n 1 "$work/log")")
    rm -rf "$work/opened"
  fi
  [ ! -f "$work/opened.squizd" ] || bench "Opening" "" "$work/opened.squizd" -- --open-only -r "$r" --ctx-size 4096
fi

left=${#models[@]}
for model in "${models[@]}"; do
  name=${model%%=*} source=${model#*=}
  find_gguf
  llama=()
  if [ -n "$gguf" ]; then
    llama=(--gguf "$gguf")
    if [ -n "$python" ]; then llama+=(--llama-cpp "$python" --llama-type Q4_0,Q4_1,Q4_K); fi
  fi
  convert_all int4=int4
  main=("${files[@]}")
  convert_all "${variants[@]}" "${codecs[@]}"
  # Of the time that is left for this model, two thirds for the bars. A trial that has begun ends.
  first='' second=''
  if [ -n "$minutes" ]; then first=$(( ((deadline - SECONDS) / left - 10) * 2 / 3 )); fi
  bench "$name: INT4" "$first" "${main[@]}" -- -p "$p" -n "$n" -r "$r" --backend "$backend" --through-server
  if [ -n "$minutes" ]; then second=$(( (deadline - SECONDS) / left - 10 )); fi
  bench "$name: the other codecs" "$second" "${files[@]}" -- -p "$p" -n "$(( n < 16 ? n : 16 ))" -r "$r" --backend "$backend"
  left=$(( left - 1 ))
done

{
  cat <<TEXT
# Benchmark of the format's variants

Written by \`scripts/run_squizd_format_benchmark.sh$called\` (\`squizd bench\`, up to $r trials). Compare numbers within a section only: what it names takes turns on the same machine, trial by trial, so that other load falls on all of it.${cores:+ Everything measured was pinned to the cores $cores.}
${note:+
$note
}
What the variants are:

| variant | here |
|---|---|
| int4 | \`--codec int4\` |
| astc | \`--codec astc\` |
| int4-sparse | not made: INT4 with the SPARSE appendix, whose predictors \`convert\` cannot train yet |
| full | \`--codec sqint2-routed\`; its SPARSE and EAGLE parts are not made yet |

How to read it:

- *load* is opening: map, parse and check the structure, resolve every tensor, choose kernels, predict memory, reserve the cache. The bar for a file of 1 GB is 50 ms.
- *first token* counts from the request, prompt included, on a loaded model; *through \`serve\`* it is what an HTTP client of a server of one slot sees, from connecting to the first event. *Of that not its forward pass* is what remains without the forward passes of that very request, as the server measures them. Its bar is 10 ms.
- Percentiles are of the trials: for rates P95 is a fast trial, for times a slow one.
- *share* is payload bytes of a step times steps per second over the read bandwidth of the same trial; a file that fits a cache can exceed 100 %, and what a codec computes per byte keeps it below. The bar for INT4 is 75 %.
- *squizd's rate over llama.cpp's*: the bars are 1.3 for decoding and 1 for prefill, INT4 against the fastest of Q4_0, Q4_1 and Q4_K. llama.cpp quantizes the same source and runs fixed tokens without sampling, as its own llama-bench does; the rows say at how many bits.

TEXT
  cat "$body"
  echo "## Skipped"
  echo
  [ ${#missing[@]} -eq 0 ] || echo "Not in the local Hugging Face cache: $(printf '%s, ' "${missing[@]}" | sed 's/, $//')."
  for line in "${skipped[@]:-}"; do
    [ -z "$line" ] || { echo; echo "Not found: $line"; }
  done
  for line in "${failed[@]:-}"; do
    [ -z "$line" ] || { echo; echo "Failed: $line"; }
  done
} > "$output"
echo "$output, after $SECONDS s" >&2
