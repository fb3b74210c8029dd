#!/usr/bin/env python3
"""What the `gguf` and `safetensors` packages say of the corpus and of damaged valid files:
one JSON object on standard output, name to "accept" or "refuse: reason".

    differential.py FOLDER      every *.gguf and *.safetensors in FOLDER

squizd-hostile/tests/differential.rs writes the folder and compares.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")


def gguf_verdict(path):
    from gguf import GGUFReader
    reader = GGUFReader(path)
    for tensor in reader.tensors:
        if tensor.data.nbytes != tensor.n_bytes:
            raise ValueError(f"{tensor.name} is cut short")


def safetensors_verdict(path):
    from safetensors import deserialize
    deserialize(path.read_bytes())


def main(folder):
    out = {}
    for path in sorted(Path(folder).iterdir()):
        judge = gguf_verdict if path.suffix == ".gguf" else safetensors_verdict
        try:
            judge(path)
            out[path.name] = "accept"
        except Exception as e:  # noqa: BLE001: any refusal counts
            out[path.name] = f"refuse: {type(e).__name__}: {e}"[:200]
    json.dump(out, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
