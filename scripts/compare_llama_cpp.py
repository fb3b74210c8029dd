#!/usr/bin/env python3
"""squizd beside llama.cpp on the same machine, in the same run.

  quantize: a synthetic BF16 GGUF with 256-divisible widths, converted by
            `squizd convert --codec int4:compact --threads 1` (Q4_K's geometry, 4.5 bits) and by llama.cpp's
            quantizer (Q4_K, pure, one thread); Mweights/s of process CPU time.
  decode:   tokens/s of one-token steps, two threads, on a GGUF (for instance
            SmolLM2 Q4_1) as it is in llama.cpp and converted by squizd.
  prefill:  tokens/s over a prompt of about 480 tokens of the same model.

Runs alternate A B A B ...; medians and the ratio are printed. Needs the PyPI
packages numpy, gguf, llama-cpp-python.

    scripts/compare_llama_cpp.py [--squizd target/release/squizd] [--gguf FILE] [--runs 5]
"""
import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HIDDEN, FFN, LAYERS, HEADS, KV, VOCAB = 2048, 5632, 6, 16, 4, 32000


def synthetic(path: str) -> int:
    """Writes a llama-shaped BF16 GGUF of Gaussian weights; returns its matrix weights."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    total = 0

    def matrix(name: str, rows: int, cols: int) -> None:
        nonlocal total
        total += rows * cols
        w = (rng.standard_normal((rows, cols), dtype=np.float32) * 0.02).view(np.uint32)
        writer.add_tensor(name, (w >> 16).astype(np.uint16).view(np.uint8).reshape(rows, -1),
                          raw_dtype=gguf.GGMLQuantizationType.BF16)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(HIDDEN, np.float32))

    matrix("token_embd.weight", VOCAB, HIDDEN)
    for i in range(LAYERS):
        p = f"blk.{i}."
        norm(p + "attn_norm.weight")
        matrix(p + "attn_q.weight", HIDDEN, HIDDEN)
        matrix(p + "attn_k.weight", HIDDEN * KV // HEADS, HIDDEN)
        matrix(p + "attn_v.weight", HIDDEN * KV // HEADS, HIDDEN)
        matrix(p + "attn_output.weight", HIDDEN, HIDDEN)
        norm(p + "ffn_norm.weight")
        matrix(p + "ffn_gate.weight", FFN, HIDDEN)
        matrix(p + "ffn_up.weight", FFN, HIDDEN)
        matrix(p + "ffn_down.weight", HIDDEN, FFN)
    norm("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return total


LLAMA_QUANTIZE = """
import ctypes, sys, llama_cpp as l
p = l.llama_model_quantize_default_params()
p.nthread, p.ftype, p.pure = 1, l.LLAMA_FTYPE_MOSTLY_Q4_K_S, True
sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))
"""

LLAMA_DECODE = """
import sys, time, json
from llama_cpp import Llama
steps = int(sys.argv[2])
m = Llama(sys.argv[1], n_threads=2, n_threads_batch=2, n_ctx=512, n_batch=256, verbose=False)
ids = m.tokenize(b"The capital of France is")
m.eval(ids)
t = m.sample(temp=0.0)
m.eval([t])
start = time.perf_counter()
for _ in range(steps):
    t = m.sample(temp=0.0)
    m.eval([t])
print(json.dumps(steps / (time.perf_counter() - start)))
"""


LLAMA_PREFILL = """
import sys, time, json
from llama_cpp import Llama
m = Llama(sys.argv[1], n_threads=2, n_threads_batch=2, n_ctx=1024, n_batch=512, verbose=False)
ids = m.tokenize(open(sys.argv[2], "rb").read())
m.eval(ids[:64])
m.reset()
start = time.perf_counter()
m.eval(ids)
print(json.dumps(len(ids) / (time.perf_counter() - start)))
"""

PROMPT = "The little dog ran over the green hill to find the red ball that its friend had thrown. " * 24


def cpu_seconds(command: list) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def quantize(args, folder: str) -> None:
    source = os.path.join(folder, "source.gguf")
    weights = synthetic(source)
    ours, theirs = [], []
    for _ in range(args.runs):
        out = os.path.join(folder, "out")
        ours.append(weights / 1e6 / cpu_seconds(
            [args.squizd, "convert", source, "-o", out + ".squizd", "--codec", "int4:compact", "--threads", "1", "--quiet"]))
        theirs.append(weights / 1e6 / cpu_seconds(
            [sys.executable, "-c", LLAMA_QUANTIZE, source, out + ".gguf"]))
    report("quantize, Mweights/s of CPU time, 1 thread", ours, theirs)


def decode(args, folder: str) -> None:
    ours, theirs = [], []
    out = os.path.join(folder, "model.squizd")
    subprocess.run([args.squizd, "convert", args.gguf, "-o", out, "--quiet"], check=True,
                   stdout=subprocess.DEVNULL)
    for _ in range(args.runs):
        run = subprocess.run(
            [args.squizd, "run", out, "--prompt", "The capital of France is", "-n", str(args.steps + 1),
             "--ignore-eos", "--threads", "2", "--stats"], check=True, capture_output=True, text=True)
        ours.append(float(re.search(r"generated \d+ tokens, ([0-9.]+) tok/s", run.stderr).group(1)))
        run = subprocess.run([sys.executable, "-c", LLAMA_DECODE, args.gguf, str(args.steps)],
                             check=True, capture_output=True, text=True)
        theirs.append(json.loads(run.stdout.strip().splitlines()[-1]))
    report(f"decode of {os.path.basename(args.gguf)}, tokens/s, 2 threads", ours, theirs)


def prefill(args, folder: str) -> None:
    ours, theirs = [], []
    out, text = os.path.join(folder, "model.squizd"), os.path.join(folder, "prompt.txt")
    with open(text, "w") as f:
        f.write(PROMPT)
    for _ in range(args.runs):
        run = subprocess.run(
            [args.squizd, "run", out, "--prompt-file", text, "-n", "1", "--threads", "2", "--stats"],
            check=True, capture_output=True, text=True)
        ours.append(float(re.search(r"prompt \d+ tokens, ([0-9.]+) tok/s", run.stderr).group(1)))
        run = subprocess.run([sys.executable, "-c", LLAMA_PREFILL, args.gguf, text],
                             check=True, capture_output=True, text=True)
        theirs.append(json.loads(run.stdout.strip().splitlines()[-1]))
    report(f"prefill of {os.path.basename(args.gguf)}, tokens/s, 2 threads", ours, theirs)


def report(what: str, ours: list, theirs: list) -> None:
    a, b = statistics.median(ours), statistics.median(theirs)
    ratios = [x / y for x, y in zip(ours, theirs)]
    print(f"{what}: squizd {a:.1f}, llama.cpp {b:.1f}, ratio {statistics.median(ratios):.2f} "
          f"(of {len(ours)} pairs {min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--squizd", default="target/release/squizd")
    ap.add_argument("--gguf", help="model for the decode and prefill comparisons")
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--steps", type=int, default=96)
    args = ap.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        quantize(args, folder)
        if args.gguf:
            decode(args, folder)
            prefill(args, folder)
    print(f"({time.time() - started:.0f} s)")


if __name__ == "__main__":
    main()
