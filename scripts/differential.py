#!/usr/bin/env python3
"""What the `gguf` and `safetensors` packages say of the corpus and of damaged valid files:
one JSON object on standard output, name to "accept" or "refuse: reason".

    differential.py FOLDER      every *.gguf and *.safetensors in FOLDER

squizd-hostile/tests/differential.rs writes the folder and compares.
"""

import json
import resource
import signal
import sys
import warnings
from pathlib import Path

from gguf import GGUFReader
from safetensors import deserialize

warnings.simplefilter("ignore")


def gguf_verdict(path):
    reader = GGUFReader(path)
    for tensor in reader.tensors:
        if tensor.data.nbytes != tensor.n_bytes:
            raise ValueError(f"{tensor.name} is cut short")


def safetensors_verdict(path):
    deserialize(path.read_bytes())


class NoVerdict(Exception):
    """The package loops over a count from the file without looking at its bytes."""


def give_up(*_):
    raise NoVerdict("no verdict in time")


def main(folder):
    # GGUFReader takes an array's length from the file and builds as many objects.
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    signal.signal(signal.SIGALRM, give_up)
    out = {}
    for path in sorted(Path(folder).iterdir()):
        judge = gguf_verdict if path.suffix == ".gguf" else safetensors_verdict
        signal.setitimer(signal.ITIMER_REAL, 2)
        try:
            judge(path)
            out[path.name] = "accept"
        except Exception as e:  # noqa: BLE001: any refusal counts
            out[path.name] = f"refuse: {type(e).__name__}: {e}"[:200]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    json.dump(out, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
