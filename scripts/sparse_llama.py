#!/usr/bin/env python3
"""Writes a Llama of about GB gigabytes whose weights are all zero: a Hugging Face folder with holes for weights.

It is there to be opened, not to say anything: `squizd bench --open-only` on what `squizd convert --codec raw` makes
of it. Needs nothing but Python.

    scripts/sparse_llama.py FOLDER [GB]
"""
import json
import math
import os
import struct
import sys

HIDDEN, FFN, HEADS, KV, VOCAB = 2048, 8192, 32, 8, 32768
LAYER = {"input_layernorm": [HIDDEN], "self_attn.q_proj": [HIDDEN, HIDDEN],
         "self_attn.k_proj": [HIDDEN * KV // HEADS, HIDDEN], "self_attn.v_proj": [HIDDEN * KV // HEADS, HIDDEN],
         "self_attn.o_proj": [HIDDEN, HIDDEN], "post_attention_layernorm": [HIDDEN], "mlp.gate_proj": [FFN, HIDDEN],
         "mlp.up_proj": [FFN, HIDDEN], "mlp.down_proj": [HIDDEN, FFN]}


def size(dims: list) -> int:
    return 2 * math.prod(dims)


def main() -> None:
    folder, gigabytes = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    layers = max(1, math.ceil((gigabytes * 1e9 - size([VOCAB, HIDDEN])) / sum(map(size, LAYER.values()))))
    tensors = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN]}
    for i in range(layers):
        tensors |= {f"model.layers.{i}.{name}.weight": dims for name, dims in LAYER.items()}
    header, end = {}, 0
    for name, dims in tensors.items():
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [end, end + size(dims)]}
        end += size(dims)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
              "intermediate_size": FFN, "num_hidden_layers": layers, "num_attention_heads": HEADS,
              "num_key_value_heads": KV, "vocab_size": VOCAB, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
              "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 1,
              "eos_token_id": 2}
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + end)


if __name__ == "__main__":
    main()
