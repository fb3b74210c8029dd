#!/usr/bin/env python3
"""How far errors in each role's matrices reach: docs/results/sensitivity.md.

Each group of tensors alone is stored with a lossy codec, everything else raw,
and the divergence from the unquantized model divided by the tensors' mean
relative squared error `|W - V|^2 / |W|^2`. That quotient is the group's
sensitivity; over the number of its tensors, one tensor's. `squizd convert
--codec auto` weighs a tensor's error by the `reach` of its role, which these
numbers settled (squizd/src/auto).

    scripts/sensitivity.py natural=shared/models/natural-qwen3-28m:4096 smollm2=SmolLM2.gguf:2048 \\
        --text heldout.txt [--squizd target/release/squizd] [--layers]
"""
import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

ROLES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


class Probe:
    """Divergence caused by one group of tensors at a time."""

    def __init__(self, arguments, source, length, folder):
        self.a, self.source, self.folder = arguments, source, folder
        self.text = ["--text", arguments.text, "--bytes", length, "--ctx", arguments.ctx, "-q"]
        raw = os.path.join(folder, "raw.squizd")
        run(arguments.squizd, "convert", source, "-o", raw, "--codec", "raw", "-q")
        self.reference = os.path.join(folder, "reference.safetensors")
        run(arguments.squizd, "eval", "logits", raw, "-o", self.reference, *self.text)
        names = [t["name"] for t in json.loads(run(arguments.squizd, "inspect", raw, "--json"))["tensors"]]
        self.layers = 1 + max(int(m[1]) for m in map(re.compile(r"blk\.(\d+)\.").match, names) if m)
        self.outside = [r for r in ("token_embd", "output") if f"{r}.weight" in names]

    def measure(self, pattern):
        """Tensors matching `pattern`, their mean relative error, and the divergence."""
        file = os.path.join(self.folder, "probe.squizd")
        done = json.loads(run(self.a.squizd, "convert", self.source, "-o", file, "--codec", "raw", "--tensor-type",
                              f"{pattern}={self.a.codec}", "--allow-requantize", "--force", "-q", "--json"))
        lossy = [t["snr_db"] for t in done["tensors"] if t["snr_db"] is not None and re.search(pattern, t["name"])]
        error = sum(10 ** (-snr / 10) for snr in lossy) / len(lossy)
        judged = json.loads(run(self.a.squizd, "eval", "kld", file, "--reference", self.reference, "--json", *self.text))
        return len(lossy), error, judged["kld"]["mean"]

    def groups(self):
        """Label and pattern of each group."""
        last = self.layers - 1
        places = [(str(layer), str(layer)) for layer in range(self.layers)] if self.a.layers else [
            ("first", "0"), ("middle", "(" + "|".join(map(str, range(1, last))) + ")"), ("last", str(last))]
        for role in self.outside:
            yield role, "", rf"^{role}\.weight$"
        for role in ROLES:
            for place, layers in places:
                yield role, place, rf"^blk\.{layers}\.{role}\.weight$"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=SOURCE:BYTES", help="a model, and how much of the text to judge by")
    parser.add_argument("--text", required=True)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--codec", default="int3:fine", help="what the group's tensors are stored with")
    parser.add_argument("--layers", action="store_true", help="each layer alone, not first, middle and last ones")
    parser.add_argument("--squizd", default="target/release/squizd")
    parser.add_argument("--output", help="a file, else standard output")
    arguments = parser.parse_args()
    shown = [re.sub(r"(^|=)/(?:[^/:]+/)*", r"\1", a) for a in sys.argv[1:]]
    lines = ["# How far errors reach, by role", "", "Written by the command", "", "```text",
             "scripts/sensitivity.py " + shlex.join(shown), "```", "",
             f"Each group alone stored as `{arguments.codec}`, all else raw. Sensitivity is the mean KL divergence that an "
             "error of the size of the weights would make if divergence stayed proportional: divergence over relative squared "
             "error, for one tensor of the group."]
    for model in arguments.models:
        name, source, length = re.fullmatch(r"([^=]+)=(.+):(\d+)", model).groups()
        lines += ["", f"## {name}, first {int(length):,} bytes", "",
                  "| role | layers | tensors | relative error | divergence | sensitivity of one |", "|---|---|---|---|---|---|"]
        with tempfile.TemporaryDirectory() as folder:
            probe = Probe(arguments, source, length, folder)
            total = 0.0
            for role, place, pattern in probe.groups():
                count, error, kld = probe.measure(pattern)
                total += kld
                lines.append(f"| {role} | {place} | {count} | {error:.5f} | {kld:.5f} | {kld / error / count:.4f} |")
                print(lines[-1], file=sys.stderr, flush=True)
            _, _, together = probe.measure(r"\.(" + "|".join(ROLES) + r")\.weight$|^(token_embd|output)\.weight$")
        lines += ["", f"The groups' divergences add up to {total:.4f}; all of them at once make {together:.4f}."]
    text = "\n".join(lines) + "\n"
    if arguments.output:
        with open(arguments.output, "w") as file:
            file.write(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
