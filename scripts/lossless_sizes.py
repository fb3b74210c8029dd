#!/usr/bin/env python3
"""Bits per weight of the lossless codecs against the entropy of the exponents: docs/results/lossless.md.

The bound is H(exponent) + 8 bits, averaged over the BF16 matrices: what an
order-0 code of each matrix' exponents takes beside unshrunk signs and
mantissas. Bits are those of the matrices' payloads, with all tables and padding.

    scripts/lossless_sizes.py shared/models/natural-qwen3-28m [--squizd target/release/squizd]

Needs the PyPI package numpy.
"""
import argparse
import glob
import json
import math
import os
import struct
import subprocess
import tempfile

CODECS = ["tca-tbe:tbe3", "tca-tbe:tbe2", "zplanes", "zplanes:z19"]


def bound(folder):
    """H(exponent) + 8 over the matrices, and their weights."""
    import numpy as np

    bits, weights = 0.0, 0
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        with open(path, "rb") as file:
            raw = file.read()
        end = 8 + struct.unpack("<Q", raw[:8])[0]
        for name, tensor in json.loads(raw[8:end]).items():
            if name == "__metadata__" or len(tensor["shape"]) < 2 or tensor["dtype"] != "BF16":
                continue
            first, last = tensor["data_offsets"]
            words = np.frombuffer(raw[end + first:end + last], dtype=np.uint16)
            counts = np.bincount(words >> 7 & 255)
            share = counts[counts > 0] / words.size
            bits += words.size * (8 - (share * np.log2(share)).sum())
            weights += words.size
    return bits / weights, weights


def measured(squizd, folder, codec):
    """Bits per weight of the matrices stored with a codec."""
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "model.squizd")
        subprocess.run([squizd, "convert", folder, "-o", path, "--codec", codec, "-q", "--json"], check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run([squizd, "inspect", path, "--json"], check=True, capture_output=True, text=True)
    matrices = [t for t in json.loads(done.stdout)["tensors"] if len(t["dims"]) >= 2]
    return 8 * sum(t["bytes"] for t in matrices) / sum(math.prod(t["dims"]) for t in matrices)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder in BF16")
    parser.add_argument("--squizd", default="target/release/squizd")
    parser.add_argument("--output", default="docs/results/lossless.md")
    arguments = parser.parse_args()
    floor, weights = bound(arguments.model)
    lines = ["# Lossless codecs, measured", "",
             f"Written by `scripts/lossless_sizes.py {arguments.model}`. {weights:,} weights of the BF16 matrices; the bound, "
             f"H(exponent) + 8, is {floor:.3f} bits per weight.", "",
             "| codec | bits/weight | above the bound | of BF16 |", "|---|---|---|---|"]
    for codec in CODECS:
        bits = measured(arguments.squizd, arguments.model, codec)
        lines.append(f"| {codec} | {bits:.3f} | {bits - floor:+.3f} | {100 * bits / 16:.1f} % |")
    lines += ["", "ZPLANES may lie below the bound: it codes signs and mantissas too where that saves anything. Decoding speed "
              "against the fastest copy and zstd: `cargo bench -p squizd --bench tca_tbe`."]
    os.makedirs(os.path.dirname(arguments.output), exist_ok=True)
    with open(arguments.output, "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
