#!/usr/bin/env python3
"""One-token and prompt speed of a model under every codec, runs alternating.

Converts SOURCE (a GGUF file or a Hugging Face folder) once per codec, then
runs each file RUNS times in turn, two threads; medians and file sizes as a
Markdown table. With --against OTHER, another squizd binary runs the same files
in the same turns, and the ratio of the medians is a column.

    scripts/decode_speed.py SOURCE [--squizd target/release/squizd] [--runs 5]
        [--codecs int4,q8,...] [--against BINARY]
"""
import argparse
import os
import re
import statistics
import subprocess
import tempfile

CODECS = ("int4,int3,int2,mxfp4,q8,hybrid,sqint2:2.125:fast,sqint2:2.125,sqint2:2.125:max,astc,"
          "lossless,bf16,f16,f32")
PROMPT = "The little dog ran over the green hill to find the red ball that its friend had thrown. " * 16


def run(binary: str, model: str, prompt: str, steps: int) -> tuple[float, float]:
    """Tokens per second of the prompt and of generating."""
    err = subprocess.run(
        [binary, "run", model, "--prompt-file", prompt, "-n", str(steps), "--ignore-eos", "--threads", "2",
         "--stats"], check=True, capture_output=True, text=True).stderr
    rate = lambda what: float(re.search(what + r" \d+ tokens, ([0-9.]+) tok/s", err).group(1))
    return rate("prompt"), rate("generated")


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("source")
    ap.add_argument("--squizd", default="target/release/squizd")
    ap.add_argument("--against")
    ap.add_argument("--codecs", default=CODECS)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--steps", type=int, default=65)
    args = ap.parse_args()
    binaries = [args.squizd] + ([args.against] if args.against else [])
    with tempfile.TemporaryDirectory() as folder:
        prompt = os.path.join(folder, "prompt.txt")
        with open(prompt, "w") as f:
            f.write(PROMPT)
        files = {}
        for codec in args.codecs.split(","):
            files[codec] = os.path.join(folder, codec.replace(":", "-") + ".squizd")
            subprocess.run([args.squizd, "convert", args.source, "-o", files[codec], "--codec", codec,
                            "--allow-requantize", "--force", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        rates = {(codec, b): [] for codec in files for b in binaries}
        for _ in range(args.runs):
            for codec, model in files.items():
                for b in binaries:
                    rates[codec, b].append(run(b, model, prompt, args.steps))
        median = lambda codec, b, i: statistics.median(r[i] for r in rates[codec, b])
        extra = " before | ratio |" if args.against else ""
        print(f"| codec | MB | decode tok/s |{extra} prompt tok/s |{extra}")
        print("|---" * (4 + 4 * bool(args.against)) + "|")
        for codec, model in files.items():
            cells = [codec, f"{os.path.getsize(model) / 1e6:.1f}"]
            for i in (1, 0):
                now = median(codec, args.squizd, i)
                cells.append(f"{now:.0f}")
                if args.against:
                    before = median(codec, args.against, i)
                    cells += [f"{before:.0f}", f"{now / before:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
