#!/usr/bin/env python3
"""Peak memory of a conversion: a synthetic 8 GB checkpoint with a 2.5 GB tensor.

Writes sharded safetensors (BF16, sparse-free random bytes with sane exponents)
to a scratch folder, converts them with `squizd convert`, and reports the peak
resident set (ru_maxrss: mapped pages included) against the bound of
1 GiB + the largest source tensor. Exit code 1 if the bound is broken.

    scripts/peak_memory.py [--squizd target/release/squizd] [--scratch DIR]
                           [--gigabytes 8] [--codec int4] [--keep]
"""
import argparse
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HIDDEN, FFN, HEADS, KV, HEAD_DIM = 4096, 12288, 32, 8, 128
LAYER_BYTES = 2 * HIDDEN * (2 * HEADS * HEAD_DIM + 2 * KV * HEAD_DIM + 3 * FFN)


def block() -> bytes:
    """One MiB of BF16 values of either sign between 2^-9 and 2^-5."""
    rng = random.Random(1)
    return b"".join(
        struct.pack("<H", rng.getrandbits(1) << 15 | rng.randint(118, 121) << 7 | rng.getrandbits(7))
        for _ in range(1 << 19)
    )


def write_shard(path: str, tensors: dict, mib: bytes) -> None:
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = 2
        for d in shape:
            size *= d
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        left = offset
        while left:
            left -= f.write(mib[: min(left, len(mib))])


def make(folder: str, total: int) -> int:
    """Writes the checkpoint; returns the bytes of its largest tensor."""
    vocab = 2_500_000_000 // (2 * HIDDEN)
    layers = max(1, round((total - 2 * vocab * HIDDEN) / LAYER_BYTES))
    mib, index = block(), {}
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=HIDDEN, intermediate_size=FFN,
        num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=HEAD_DIM,
        vocab_size=vocab, max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0,
        hidden_act="silu", tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    shards = [{"model.embed_tokens.weight": [vocab, HIDDEN], "model.norm.weight": [HIDDEN]}]
    for i in range(layers):
        p = f"model.layers.{i}."
        shards.append({
            p + "input_layernorm.weight": [HIDDEN],
            p + "self_attn.q_proj.weight": [HEADS * HEAD_DIM, HIDDEN],
            p + "self_attn.k_proj.weight": [KV * HEAD_DIM, HIDDEN],
            p + "self_attn.v_proj.weight": [KV * HEAD_DIM, HIDDEN],
            p + "self_attn.o_proj.weight": [HIDDEN, HEADS * HEAD_DIM],
            p + "post_attention_layernorm.weight": [HIDDEN],
            p + "mlp.gate_proj.weight": [FFN, HIDDEN],
            p + "mlp.up_proj.weight": [FFN, HIDDEN],
            p + "mlp.down_proj.weight": [HIDDEN, FFN],
        })
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(os.path.join(folder, name), tensors, mib)
        index.update({t: name for t in tensors})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": index}, f)
    return 2 * vocab * HIDDEN


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--squizd", default="target/release/squizd")
    ap.add_argument("--scratch", default=None)
    ap.add_argument("--gigabytes", type=float, default=8.0)
    ap.add_argument("--codec", default="int4")
    ap.add_argument("--keep", action="store_true")
    args = ap.parse_args()
    scratch = tempfile.mkdtemp(dir=args.scratch)
    try:
        model = os.path.join(scratch, "model")
        os.mkdir(model)
        largest = make(model, int(args.gigabytes * 1e9))
        out = os.path.join(scratch, "out.squizd")
        started = time.time()
        subprocess.run([args.squizd, "convert", model, "-o", out, "--codec", args.codec], check=True)
        seconds = time.time() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        bound = (1 << 30) + largest
        print(f"largest tensor {largest / 1e9:.2f} GB, peak RSS {peak / 1e6:.0f} MB, "
              f"bound {bound / 1e6:.0f} MB, {seconds:.1f} s, output {os.path.getsize(out) / 1e9:.2f} GB")
        return 0 if peak < bound else 1
    finally:
        if not args.keep:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
