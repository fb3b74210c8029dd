#!/usr/bin/env python3
"""A model of random weights in the shape of a well-known one, for measurements of
speed and memory alone: what it says is noise.

    random_model.py OUT --shape llama-8b [--layers N] --tokenizer FOLDER

writes OUT/model-*.safetensors (BF16, Gaussian weights of variance 1 / columns),
config.json, and the tokenizer's files of FOLDER, whose vocabulary may be smaller.
Weights are pieces of one pool of 2^26 numbers from other places each: enough for
exponents, codes and scales to be distributed as in a Gaussian matrix.
Needs numpy.
"""

import argparse
import json
import math
import pathlib
import shutil

import numpy as np

SHAPES = {
    # Sizes as published with the models' config.json.
    "llama-1b": dict(hidden=2048, ffn=8192, layers=16, heads=32, kv_heads=8, head_dim=64, vocab=128256),
    "llama-3b": dict(hidden=3072, ffn=8192, layers=28, heads=24, kv_heads=8, head_dim=128, vocab=128256),
    "llama-8b": dict(hidden=4096, ffn=14336, layers=32, heads=32, kv_heads=8, head_dim=128, vocab=128256),
    "smollm2-135m": dict(hidden=576, ffn=1536, layers=30, heads=9, kv_heads=3, head_dim=64, vocab=49152),
}
POOL = 1 << 26


def bf16(values):
    """The upper halves of float32 numbers, rounded to nearest."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class Weights:
    """Tensors of random numbers, one after the other."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.pool = self.random.standard_normal(POOL, dtype=np.float32)
        self.scaled = {}

    def write(self, file, rows, cols):
        if cols not in self.scaled:
            self.scaled[cols] = bf16(self.pool / math.sqrt(cols))
        left = rows * cols
        while left:
            start = int(self.random.integers(POOL))
            piece = self.scaled[cols][start : start + left]
            file.write(piece.tobytes())
            left -= len(piece)


def save(path, tensors, weights):
    """A safetensors file of `tensors` (name, shape), BF16; a vector is all ones."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in tensors:
            if len(shape) == 1:
                file.write(bf16(np.ones(shape[0])).tobytes())
            else:
                weights.write(file, *shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--layers", type=int, help="fewer or more than the shape has")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    s = SHAPES[args.shape]
    layers = args.layers or s["layers"]
    args.out.mkdir(parents=True, exist_ok=True)
    weights = Weights(args.seed)
    h, f, q, kv = s["hidden"], s["ffn"], s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    files = layers + 1
    index = {}
    for i in range(files):
        if i == layers:
            tensors = [("model.embed_tokens.weight", [s["vocab"], h]), ("model.norm.weight", [h])]
        else:
            block = f"model.layers.{i}."
            shapes = {
                "input_layernorm": [h],
                "post_attention_layernorm": [h],
                "self_attn.q_proj": [q, h],
                "self_attn.k_proj": [kv, h],
                "self_attn.v_proj": [kv, h],
                "self_attn.o_proj": [h, q],
                "mlp.gate_proj": [f, h],
                "mlp.up_proj": [f, h],
                "mlp.down_proj": [h, f],
            }
            tensors = [(f"{block}{name}.weight", shape) for name, shape in shapes.items()]
        name = f"model-{i + 1:05}-of-{files:05}.safetensors"
        save(args.out / name, tensors, weights)
        index.update({tensor: name for tensor, _ in tensors})
    (args.out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": h,
        "intermediate_size": f,
        "num_hidden_layers": layers,
        "num_attention_heads": s["heads"],
        "num_key_value_heads": s["kv_heads"],
        "head_dim": s["head_dim"],
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": s["vocab"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        if (args.tokenizer / name).exists():
            shutil.copy(args.tokenizer / name, args.out / name)


if __name__ == "__main__":
    main()
