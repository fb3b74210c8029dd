#!/usr/bin/env python3
"""Every codec beside llama.cpp's quantizations of the same source: docs/results/quality.md and .csv.

For each model: size, bits per weight, SNR, perplexity, KL divergence and top-1
agreement of every codec, without and with calibration, and the same of
llama.cpp's types (with an imatrix made from the same calibration). One
protocol for both sides: llama.cpp's files are converted back by squizd's exact
dequantization (`squizd convert --codec raw`), and judged by `squizd eval kld`
against the unquantized model, whose logits are computed once. Bits per weight
count tensor data only, on both sides (scales, tables and padding included;
tokenizer and metadata excluded).

Every measurement is kept in WORK/results-MODEL.json as soon as it is made and
not made again for the same protocol and squizd binary, so that the command can
be stopped and repeated, and its file carried to another machine: the protocol
names texts by their digest. --minutes stops it, --reuse takes rows that other
builds made, --only measures some rows and shows the others as they are kept.
The documents are written from what there is, and name what is missing. The
most telling rows come first; --jobs measures several at once, each with its
share of the threads.

    scripts/results_table.py natural=shared/models/natural-qwen3-28m:8192 smollm2=SmolLM2.gguf:4096 \\
        --text heldout.txt --calibration-range 131072:655360 [--squizd target/release/squizd] [--jobs 8]

Needs the PyPI packages numpy, gguf, llama-cpp-python; without the last one,
llama.cpp's rows are those that are kept.
"""
import argparse
import concurrent.futures
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time

# Recipes by importance; with calibration the second list is added.
AUTO = ["4.6", "4.1", "3.6", "3.1", "2.6", "5", "5.8", "2.2"]
PLAIN = [["sqint2:4"], ["sqint2:3.5"], ["sqint2:3"], ["int4:fine"], ["int3:fine"], ["int4"], ["int3"], ["sqint2:2.125"],
         ["sqint2:2.5"], ["q8"], ["mxfp4"], ["astc"], ["hybrid", "--target-bpw", "4.5"], ["hybrid", "--target-bpw", "3.5"],
         ["hybrid", "--target-bpw", "5.5"], ["int2:fine"], ["int4:g32"], ["int3:g32"], ["astc-hybrid"], ["sqint2-routed"],
         ["lossless"], ["zplanes"], ["sqint2:4:max"], ["sqint2:3:max"], ["sqint2:2.125:max"], ["sqint2:3:fast"],
         ["sqint2:2.125:fast"], ["int2"], ["int4:g128"], ["int2:g32"]]
CALIBRATED = [["sqint2:3"], ["sqint2:2.125"], ["sqint2:3.5"], ["sqint2:4"], ["int4:fine"], ["int3:fine"], ["sqint2:2.5"],
              ["int4"], ["int3"], ["sqint2-routed"], ["sqint2:2.125:max"], ["sqint2:3:max"], ["int2:fine"], ["mxfp4"],
              ["astc"], ["hybrid", "--target-bpw", "4.5"], ["int4", "--awq"], ["int3", "--awq"], ["int2"]]
LLAMA = ["Q4_K_M", "Q2_K", "Q3_K_M", "IQ4_XS", "Q4_0", "IQ3_S", "Q5_K_M", "IQ3_XXS", "IQ2_S", "IQ2_XS", "Q8_0", "Q6_K", "IQ2_XXS"]
IMATRIX_ONLY = {"IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS"}
# The brief's marks: perplexity ratio at most, bits per weight at most.
MARKED = "natural-qwen3-28m"
MARKS = [(1.02, 4.6), (1.06, 4.1), (1.10, 3.6), (1.2, 3.1)]

QUANTIZE = r"""
import ctypes, json, sys
import llama_cpp as l
source, target, name, threads, imatrix = sys.argv[1:6]
silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
l.llama_log_set(silent, None)
l.llama_backend_init()
p = l.llama_model_quantize_default_params()
p.ftype, p.nthread, p.allow_requantize = getattr(l, 'LLAMA_FTYPE_MOSTLY_' + name), int(threads), True
if imatrix != '-':
    import numpy as np
    data = np.load(imatrix)
    entries = (l.llama_model_imatrix_data * (len(data.files) + 1))()
    keep = []
    for entry, key in zip(entries, data.files):
        values = np.ascontiguousarray(data[key], dtype=np.float32)
        keep.append(values)
        entry.name, entry.size = key.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    p.imatrix = ctypes.cast(entries, type(p.imatrix))
sys.exit(l.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(p)))
"""


class Failed(Exception):
    """A command that should have worked did not."""


def run(arguments, check=True, deadline=None):
    """Runs a command; past the deadline it is killed and `TimeoutExpired` raised."""
    left = None if deadline is None else max(deadline - time.monotonic(), 0.1)
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=left)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done


def write_gguf(folder, path):
    """A BF16 GGUF of a Qwen3 folder, tokenizer included."""
    import gguf
    import numpy as np

    config = json.load(open(os.path.join(folder, "config.json")))
    if config["model_type"] != "qwen3":
        sys.exit(f"{folder}: this script writes GGUF of qwen3 folders only; give a GGUF of {config['model_type']}")
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(os.path.basename(os.path.normpath(folder)))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    tokenizer = json.load(open(os.path.join(folder, "tokenizer.json")))
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda kv: kv[1])
    special = {t["content"] for t in tokenizer["added_tokens"] if t["special"]}
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t, _ in vocabulary]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([t for t, _ in vocabulary])
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    modules = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
               "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
               "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
               "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for file in sorted(f for f in os.listdir(folder) if f.endswith(".safetensors") and f.startswith("model")):
        for name, dtype, shape, data in safetensors(os.path.join(folder, file)):
            module, part = name.rsplit(".", 1)
            if module.startswith("model.layers."):
                layer, module = module[len("model.layers."):].split(".", 1)
                target = f"blk.{layer}.{modules[module]}.{part}"
            else:
                target = f"{outside[module]}.{part}"
            if dtype != "BF16":
                sys.exit(f"{file}: {name} is {dtype}, expected BF16")
            bits = np.frombuffer(data, dtype=np.uint16)
            if len(shape) == 1:  # llama.cpp keeps norms in F32
                writer.add_tensor(target, (bits.astype(np.uint32) << 16).view(np.float32).reshape(shape))
            else:
                writer.add_tensor(target, bits.view(np.uint8).reshape(shape[0], -1),
                                  raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def safetensors(path):
    """Name, type, shape and bytes of each tensor of a file."""
    raw = open(path, "rb").read()
    end = 8 + int.from_bytes(raw[:8], "little")
    for name, t in json.loads(raw[8:end]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            yield name, t["dtype"], t["shape"], raw[end + a:end + b]


def imatrix(calibration, path):
    """The importance of a calibration file under llama.cpp's tensor names."""
    import numpy as np

    readers = {"attn_q": ["attn_q", "attn_k", "attn_v"], "attn_output": ["attn_output"],
               "ffn_gate": ["ffn_gate", "ffn_up"], "ffn_down": ["ffn_down"],
               "moe_gate": ["ffn_gate_exps", "ffn_up_exps"], "moe_down": ["ffn_down_exps"], "output": ["output"]}
    entries = {}
    for name, _, _, data in safetensors(calibration):
        if name.endswith(".input.importance"):
            *layer, role = name[: -len(".input.importance")].rsplit(".", 1)
            for reader in readers[role]:
                entries[".".join([*layer, reader, "weight"])] = np.frombuffer(data, dtype=np.float32)
    np.savez(path, **entries)


class Bench:
    """The measurements of one model."""

    def __init__(self, arguments, name, source, length):
        self.a, self.name, self.source, self.bytes = arguments, name, source, length
        self.missing, self.failed = [], []
        self.folder = os.path.join(arguments.work, name)
        os.makedirs(self.folder, exist_ok=True)
        self.squizd = os.path.abspath(arguments.squizd)
        self.build = hashlib.sha256(open(self.squizd, "rb").read()).hexdigest()[:12]
        # Rows measured at once share the threads evenly.
        self.threads = arguments.threads
        self.lock = threading.Lock()
        self.cache_path = os.path.join(arguments.work, f"results-{name}.json")
        kept = {} if arguments.fresh or not os.path.exists(self.cache_path) else json.load(open(self.cache_path))
        self.cache = kept
        end = int((arguments.calibration_range or "0:0").split(":")[1])
        with open(arguments.text, "rb") as text:
            self.text_digest = hashlib.sha256(text.read(max(length, end))).hexdigest()
        self.unquantized = os.path.join(self.folder, "reference.squizd")
        self.reference = os.path.join(self.folder, "reference.safetensors")
        self.calibration = os.path.join(self.folder, "model.calib") if arguments.calibration_range else None
        self.ready = self.prepare()

    def prepare(self):
        """The files that rows need, as far as time allows; whether all are there."""
        try:
            self.run_squizd("convert", self.source, "-o", self.unquantized, "--codec", "raw")
            logits = lambda: self.run_squizd(*self.eval("logits", self.unquantized), "-o", self.reference).stdout
            calibrated = lambda: not self.calibration or self.cached("calibrate", [], self.calibrate, self.calibration)
            return self.cached("reference", [], logits, self.reference) is not None and calibrated() is not None
        except subprocess.TimeoutExpired:
            return False

    def run_squizd(self, *arguments, check=True):
        return run([self.squizd, *arguments, "-q", "--threads", self.threads], check, self.a.deadline)

    def eval(self, what, file):
        return ["eval", what, file, "--text", self.a.text, "--bytes", self.bytes, "--ctx", self.a.ctx]

    def key(self, parts):
        """What a measurement depends on, besides the build: never where files lie."""
        protocol = [parts, self.text_digest, self.bytes, self.a.ctx, self.a.calibration_range, self.a.calibration_tokens]
        return hashlib.sha256(json.dumps(protocol).encode()).hexdigest()

    def valid(self, label, parts):
        old = self.cache.get(label, {})
        same_build = old.get("build") == self.build or any(re.search(r, label) for r in self.a.reuse or [])
        return old.get("key") == self.key(parts) and same_build

    def cached(self, label, parts, make, file=None):
        """The result of `make`, kept for this protocol and key; None when time is up.

        With `file`, the result is that file, which must be there.
        """
        if not self.valid(label, parts) or (file and not os.path.exists(file)):
            if time.monotonic() > self.a.deadline:
                return self.late(label)
            print(f"{time.strftime('%H:%M:%S')} {self.name}: {label}", file=sys.stderr, flush=True)
            try:
                row = make()
            except subprocess.TimeoutExpired:
                return self.late(label)
            except Failed as failed:
                print(f"{label}: {failed}", file=sys.stderr)
                self.failed.append(label)
                return self.late(label)
            with self.lock:
                self.cache[label] = {"key": self.key(parts), "build": self.build, "machine": machine(), "row": row}
                with open(self.cache_path + ".part", "w") as kept:
                    json.dump(self.cache, kept, indent=1)
                os.replace(self.cache_path + ".part", self.cache_path)
        return self.kept(label)

    def kept(self, label):
        entry = self.cache[label]
        row = entry["row"]
        return {**row, "build": entry["build"], "machine": entry["machine"]} if isinstance(row, dict) else row

    def late(self, label):
        with self.lock:
            self.missing.append(label)

    def calibrate(self):
        start, end = map(int, self.a.calibration_range.split(":"))
        text = os.path.join(self.folder, "calibration.txt")
        with open(self.a.text, "rb") as source, open(text, "w") as target:
            target.write(source.read()[start:end].decode(errors="ignore"))
        done = self.run_squizd("calibrate", self.unquantized, "--text", text, "-o", self.calibration,
                               "--tokens", self.a.calibration_tokens, "--ctx", self.a.ctx, "--json")
        return json.loads(done.stdout)

    def judge(self, file):
        return json.loads(self.run_squizd(*self.eval("kld", file), "--reference", self.reference, "--json").stdout)

    def ours(self, wish, calibrated):
        """One of our recipes; None where this build lacks a codec."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            file = os.path.join(folder, "ours.squizd")
            extra = ["--calibration", self.calibration] if calibrated else []
            done = self.run_squizd("convert", self.source, "-o", file, "--codec", *wish, "--force",
                                   "--allow-requantize", "--json", *extra, check=False)
            if done.returncode != 0:
                lacking = "unknown codec" in done.stderr or "needs codec" in done.stderr or "unknown option" in done.stderr
                if not lacking:
                    raise Failed(f"{wish}: {done.stderr.strip()}")
                print(f"  skipped: {done.stderr.strip()}", file=sys.stderr)
                return None
            summary = json.loads(done.stdout)
            return {"label": " ".join(w.removeprefix("--") for w in wish), "side": "squizd", "calibrated": calibrated,
                    "bytes": round(summary["bpw"] * self.weights() / 8), "bpw": summary["bpw"], "snr_db": summary["mean_snr_db"],
                    "seconds": summary["seconds"], **self.judge(file)}

    def llama(self, kind, calibrated):
        """One of llama.cpp's types; None where it cannot make it."""
        import gguf

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            quantized, back = os.path.join(folder, "llama.gguf"), os.path.join(folder, "back.squizd")
            matrix = "-"
            if calibrated:
                matrix = os.path.join(folder, "imatrix.npz")
                imatrix(self.calibration, matrix)
            done = run([sys.executable, "-c", QUANTIZE, self.gguf(), quantized, kind, self.threads, matrix],
                       False, self.a.deadline)
            if done.returncode != 0:
                print(f"  skipped: llama.cpp does not make {kind}: {done.stderr.strip()[-200:]}", file=sys.stderr)
                return None
            reader = gguf.GGUFReader(quantized)
            data = sum(int(t.n_bytes) for t in reader.tensors)
            weights = sum(int(t.n_elements) for t in reader.tensors)
            self.run_squizd("convert", quantized, "-o", back, "--codec", "raw")
            diff = self.run_squizd("diff", self.unquantized, back, "--json", check=False)
            snr = [t["distance"]["snr_db"] for t in json.loads(diff.stdout)["tensors"]
                   if t.get("distance") and t["distance"].get("snr_db") is not None]
            return {"label": kind, "side": "llama.cpp", "calibrated": calibrated, "bytes": data,
                    "bpw": data * 8 / weights, "snr_db": sum(snr) / len(snr) if snr else None, **self.judge(back)}

    def gguf(self):
        if not os.path.isdir(self.source):
            return self.source
        path = os.path.join(self.folder, "source.gguf")
        with self.lock:
            if not os.path.exists(path):
                write_gguf(self.source, path + ".part")
                os.replace(path + ".part", path)
        return path

    def weights(self):
        """Weights of the model."""
        tensors = json.loads(run([self.squizd, "inspect", self.unquantized, "--json"]).stdout)["tensors"]
        return sum(math.prod(t["dims"]) for t in tensors)

    def tasks(self):
        """Label, key and measurement of every row, the most telling first."""
        def theirs(kind, calibrated):
            label = f"llama {kind}" + (" +imatrix" if calibrated else "")
            return label, [kind, calibrated], lambda: self.llama(kind, calibrated)

        def ours(wish, calibrated):
            label = " ".join(wish).replace("--", "") + (" +calibration" if calibrated else "")
            return label, [wish, calibrated], lambda: self.ours(wish, calibrated)

        autos = [["auto", "--target-bpw", t] for t in AUTO]
        tasks = interleave([theirs(k, False) for k in LLAMA if k not in IMATRIX_ONLY],
                           [ours(w, False) for w in PLAIN[:8] + autos + PLAIN[8:]])
        if self.calibration:
            with_imatrix = [theirs(k, True) for k in LLAMA if k != "Q8_0"]
            calibrated = [ours(w, True) for w in CALIBRATED[:6] + autos + CALIBRATED[6:]]
            tasks = interleave(tasks, interleave(with_imatrix, calibrated))
        return tasks

    def rows(self):
        """Every row that is kept or that there is time for."""
        def wanted(label):
            possible = not label.startswith("llama") or importlib.util.find_spec("llama_cpp")
            return self.ready and possible and (not self.a.only or any(re.search(o, label) for o in self.a.only))

        def row(task):
            label, parts, make = task
            if wanted(label):
                return self.cached(label, parts, make)
            return self.kept(label) if self.valid(label, parts) else self.late(label)

        self.threads = max(1, self.a.threads // self.a.jobs)
        tasks = self.tasks()
        with concurrent.futures.ThreadPoolExecutor(self.a.jobs) as pool:
            rows = [r for r in pool.map(row, tasks) if r]
        order = {label: i for i, (label, _, _) in enumerate(tasks)}
        self.missing = sorted((m for m in self.missing if m in order), key=order.get)
        return sorted(rows, key=lambda r: -r["bpw"])


def interleave(a, b):
    """By turns; the longer one's rest behind."""
    both = [x for pair in zip(a, b) for x in pair]
    return both + a[len(b):] + b[len(a):]


def table(rows):
    lines = ["| | codec | calibration | bits/weight | MB | SNR dB | perplexity | ratio | KL divergence | 99 % | same top token |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        snr = "" if r["snr_db"] is None else f"{r['snr_db']:.2f}"
        lines.append(f"| {r['side']} | {r['label']} | {'yes' if r['calibrated'] else ''} | {r['bpw']:.3f} | {r['bytes'] / 1e6:.2f} "
                     f"| {snr} | {r['ppl']:.3f} | {r['ppl_ratio']:.4f} | {r['kld']['mean']:.5f} +- {r['kld']['standard_error']:.5f} "
                     f"| {r['kld']['p99']:.4f} | {100 * r['top1_agreement']:.2f} % |")
    return lines


def best(rows, calibrated, bits, what):
    """Of ours, the row of at most so many bits with the least of `what`."""
    rivals = [r for r in rows if r["side"] == "squizd" and r["calibrated"] == calibrated and r["bpw"] <= bits]
    return min(rivals, key=what, default=None)


def duel(rows):
    """Each of llama.cpp's rows against ours of at most its bits."""
    lines = ["| llama.cpp | bits | ratio | KL divergence | ours at no more bits | bits | ratio | KL divergence | of theirs | better |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for theirs in (r for r in rows if r["side"] == "llama.cpp"):
        kind = theirs["label"] + (" + imatrix" if theirs["calibrated"] else "")
        head = f"| {kind} | {theirs['bpw']:.3f} | {theirs['ppl_ratio']:.4f} | {theirs['kld']['mean']:.5f} "
        ours = best(rows, theirs["calibrated"], theirs["bpw"], lambda r: r["kld"]["mean"])
        if ours is None:
            lines.append(head + "| none measured | | | | | |")
            continue
        share = ours["kld"]["mean"] / theirs["kld"]["mean"]
        better = ours["ppl_ratio"] < theirs["ppl_ratio"], share <= 0.9
        verdict = {(True, True): "yes", (True, False): "ratio only", (False, True): "KLD only"}.get(better, "no")
        lines.append(head + f"| {ours['label']} | {ours['bpw']:.3f} | {ours['ppl_ratio']:.4f} | {ours['kld']['mean']:.5f} "
                            f"| {share:.2f} | {verdict} |")
    return lines


def marks(rows, complete):
    """The brief's marks for natural-qwen3-28m; those missed are only known when all rows are."""
    missed = "**missed**" if complete else "not reached by what is measured yet"
    lines = ["| mark | without calibration | with calibration |", "|---|---|---|"]
    for ratio, bits in [*MARKS, (None, 2.6)]:
        cells = []
        for calibrated in (False, True):
            ours = best(rows, calibrated, bits + 0.005, lambda r: r["ppl_ratio"])
            if ours is None:
                cells.append("not measured")
                continue
            verdict = "" if ratio is None else "reached: " if ours["ppl_ratio"] <= ratio else f"{missed}: "
            cells.append(f"{verdict}{ours['label']}, {ours['bpw']:.3f} bits, ratio {ours['ppl_ratio']:.4f}")
        mark = f"at most {bits} bits" + ("" if ratio is None else f", ratio at most {ratio}")
        lines.append(f"| {mark} | {cells[0]} | {cells[1]} |")
    return lines


def machine():
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    packages = [p for p in ("llama-cpp-python", "gguf") if importlib.util.find_spec(p.replace("-python", "").replace("-", "_"))]
    versions = "".join(f", {p} {importlib.metadata.version(p)}" for p in packages)
    return f"{os.cpu_count()} cores of {model}; Python {platform.python_version()}{versions}"


def shown(argument):
    """An argument as the document shows it: no path of this machine."""
    return re.sub(r"(^|=)/(?:[^/:]+/)*", r"\1", argument)


def document(arguments, results, missing):
    """The text of quality.md."""
    machines = sorted({r["machine"] for rows, _ in results.values() for r in rows}) or [machine()]
    text = ["# Quality of every codec, measured", "", "Written by the command", "", "```text",
            "scripts/results_table.py " + shlex.join(map(shown, sys.argv[1:])), "```", "", f"on {', and on '.join(machines)}.", "",
            "Both sides by one protocol: perplexity and KL divergence from the unquantized model over the start of "
            f"`{os.path.basename(arguments.text)}` in windows of {arguments.ctx} tokens (lengths below), computed by "
            "`squizd eval kld`; llama.cpp's files were made by `llama_model_quantize` from the same source and converted back by "
            "exact dequantization. Bits per weight and megabytes count tensor data with all scales, tables and padding; tokenizer "
            "and metadata are left out on both sides. Ratio is perplexity over the unquantized model's. SNR is the mean over the "
            "tensors that are stored with loss. "
            + (f"Calibration: {arguments.calibration_tokens:,} tokens of bytes {arguments.calibration_range} of the same file, "
               "none of which is scored; Hessians for ours, an imatrix of the same activations for llama.cpp."
               if arguments.calibration_range else "No calibration.")]
    for name, (rows, length) in results.items():
        text += ["", f"## {name}", ""]
        if not rows:
            text += ["Nothing measured yet."]
            continue
        builds = sorted({r["build"] for r in rows})
        text += [f"First {length:,} bytes, {rows[0]['tokens']:,} tokens scored, reference perplexity {rows[0]['reference_ppl']:.4f}; "
                 f"squizd {', '.join(builds)} (SHA-256 of the binary).", "", *table(rows), "",
                 "### Against llama.cpp", "", "Ours of least divergence at no more bits; \"better\" asks for a smaller ratio and "
                 "at most 0.9 of the divergence.", "", *duel(rows)]
        if name in arguments.marked:
            text += ["", "### Marks", "", *marks(rows, not missing[name])]
        if missing[name]:
            text += ["", "Not measured: " + ", ".join(missing[name]) + "."]
    return "\n".join(text) + "\n"


def write_csv(path, results):
    fields = ["model", "side", "label", "calibrated", "bpw", "bytes", "snr_db", "ppl", "ppl_ratio", "kld_mean", "kld_p99",
              "top1_agreement", "tokens", "build"]
    with open(path, "w", newline="") as file:
        out = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        out.writeheader()
        for name, (rows, _) in results.items():
            for r in rows:
                out.writerow({"model": name, **r, "kld_mean": r["kld"]["mean"], "kld_p99": r["kld"]["p99"]})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=SOURCE:BYTES", help="a Qwen3 folder or a GGUF, and how much of the text")
    parser.add_argument("--text", required=True, help="text to judge by")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--calibration-range", metavar="START:END", help="bytes of the text to calibrate with, behind what is judged")
    parser.add_argument("--calibration-tokens", type=int, default=32768)
    parser.add_argument("--squizd", default="target/release/squizd")
    parser.add_argument("--work", default="target/results")
    parser.add_argument("--output", default="docs/results", help="folder of quality.md and quality.csv")
    parser.add_argument("--only", nargs="+", metavar="REGEX", help="measure only rows whose label one of these is found in; "
                        "labels are like 'sqint2:3 +calibration', 'auto target-bpw 4.6', 'llama Q4_K_M +imatrix'")
    parser.add_argument("--minutes", type=float, default=600, help="stop what is being measured after so long")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of all rows together")
    parser.add_argument("--jobs", type=int, default=1, help="rows measured at once")
    parser.add_argument("--reuse", nargs="*", metavar="REGEX",
                        help="take rows that other builds made: all, or those whose label one of these is found in")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    arguments.jobs = max(1, arguments.jobs)
    arguments.reuse = [""] if arguments.reuse == [] else arguments.reuse
    arguments.deadline = time.monotonic() + 60 * arguments.minutes
    os.makedirs(arguments.work, exist_ok=True)
    os.makedirs(arguments.output, exist_ok=True)
    results, missing, failed = {}, {}, []
    arguments.marked = []
    for model in arguments.models:
        name, _, rest = model.partition("=")
        source, _, length = rest.rpartition(":")
        if os.path.basename(os.path.normpath(source)) == MARKED:
            arguments.marked.append(name)
        if not (name and source and length.isdigit()):
            parser.error(f"{model!r} must be NAME=SOURCE:BYTES")
        if arguments.calibration_range and int(arguments.calibration_range.split(":")[0]) < int(length):
            parser.error(f"{model!r}: the calibration range begins inside the text that is judged")
        bench = Bench(arguments, name, source, int(length))
        results[name], missing[name] = (bench.rows(), int(length)), bench.missing
        failed += bench.failed
        with open(os.path.join(arguments.output, "quality.md"), "w") as file:
            file.write(document(arguments, results, missing))
        write_csv(os.path.join(arguments.output, "quality.csv"), results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(str(failed))
