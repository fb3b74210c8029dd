#!/usr/bin/env python3
"""Every codec beside llama.cpp's quantizations of the same source, as docs/results/codecs.md.

For each model: size, bits per weight, SNR, perplexity, KL divergence and top-1
agreement of every codec, without and with calibration, and the same of
llama.cpp's types (with an imatrix made from the same calibration). One
protocol for both sides: llama.cpp's files are converted back by squizd's exact
dequantization (`squizd convert --codec raw`), and judged by `squizd eval kld`
against the unquantized model. Bits per weight count tensor data only, on both
sides (scales, tables and padding included; tokenizer and metadata excluded).

Every measurement is kept in WORK/results-MODEL.json as soon as it is made, and
not made again for the same squizd binary and arguments unless --fresh.

    scripts/results_table.py natural=shared/models/natural-qwen3-28m smollm2=SmolLM2.gguf \\
        --text heldout.txt --calibration-text broad.txt [--squizd target/release/squizd] [--bytes 65536]

Needs the PyPI packages numpy, gguf, llama-cpp-python, safetensors.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys

# Label and arguments; with calibration the rows after the bar are added.
PLAIN = [["lossless"], ["q8"], ["int4"], ["int4:fine"], ["int4:g32"], ["int4:g128"], ["mxfp4"], ["sqint2:4"],
         ["sqint2:4:max"], ["astc"], ["hybrid", "--target-bpw", "4.5"], ["hybrid", "--target-bpw", "3.5"],
         ["sqint2:3.5"], ["int3"], ["int3:fine"], ["int3:g32"], ["sqint2:3"], ["sqint2:3:max"], ["sqint2:2.5"],
         ["int2"], ["int2:fine"], ["sqint2:2.125"], ["sqint2:2.125:max"], ["astc-hybrid"], ["sqint2-routed"]]
AUTO = ["5", "4.5", "4", "3.5", "3", "2.6"]
CALIBRATED = [["int4"], ["int4:fine"], ["mxfp4"], ["sqint2:4"], ["sqint2:3.5"], ["int3"], ["int3:fine"], ["sqint2:3"],
              ["sqint2:3:max"], ["sqint2:2.5"], ["int2"], ["int2:fine"], ["sqint2:2.125"], ["sqint2:2.125:max"],
              ["sqint2-routed"], ["int4", "--awq"], ["int3", "--awq"]]
LLAMA = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"]
IMATRIX_ONLY = {"IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS"}

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


def run(arguments, check=True):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
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
    def __init__(self, arguments, name, source):
        self.a, self.name, self.source = arguments, name, source
        self.folder = os.path.join(arguments.work, name)
        os.makedirs(self.folder, exist_ok=True)
        self.squizd = os.path.abspath(arguments.squizd)
        self.binary = hashlib.sha256(open(self.squizd, "rb").read()).hexdigest()
        self.cache_path = os.path.join(arguments.work, f"results-{name}.json")
        kept = {} if arguments.fresh or not os.path.exists(self.cache_path) else json.load(open(self.cache_path))
        self.cache = kept
        self.reference = os.path.join(self.folder, "reference.squizd")
        run([self.squizd, "convert", source, "-o", self.reference, "--codec", "raw", "-q"])
        self.calibration = None
        if arguments.calibration_text:
            self.calibration = os.path.join(self.folder, "model.calib")
            self.cached("calibrate", [arguments.calibration_text, arguments.calibration_tokens], self.calibrate)

    def cached(self, label, key, make):
        """The result of `make`, kept for this binary, protocol and key."""
        protocol = [self.binary, key, self.a.text, self.a.bytes, self.a.ctx, self.a.calibration_text, self.a.calibration_tokens]
        digest = hashlib.sha256(json.dumps(protocol).encode()).hexdigest()
        if self.cache.get(label, {}).get("key") != digest:
            print(f"{self.name}: {label}", file=sys.stderr, flush=True)
            self.cache[label] = {"key": digest, "row": make()}
            with open(self.cache_path + ".part", "w") as file:
                json.dump(self.cache, file, indent=1)
            os.replace(self.cache_path + ".part", self.cache_path)
        return self.cache[label]["row"]

    def calibrate(self):
        done = run([self.squizd, "calibrate", self.reference, "--text", self.a.calibration_text, "-o", self.calibration,
                    "--tokens", self.a.calibration_tokens, "--ctx", self.a.ctx, "--json", "-q"])
        return json.loads(done.stdout)

    def judge(self, file):
        done = run([self.squizd, "eval", "kld", file, "--reference", self.reference, "--text", self.a.text,
                    "--bytes", self.a.bytes, "--ctx", self.a.ctx, "--json", "-q"])
        return json.loads(done.stdout)

    def ours(self, wish, calibrated):
        """One of our recipes; None where this build lacks a codec."""
        def make():
            file = os.path.join(self.folder, "ours.squizd")
            arguments = [self.squizd, "convert", self.source, "-o", file, "--codec", *wish, "--force",
                         "--allow-requantize", "--json", "-q"]
            if calibrated:
                arguments += ["--calibration", self.calibration]
            done = run(arguments, check=False)
            if done.returncode != 0:
                lacking = "unknown codec" in done.stderr or "needs codec" in done.stderr or "unknown option" in done.stderr
                if not lacking:
                    sys.exit(f"{wish}: {done.stderr.strip()}")
                print(f"  skipped: {done.stderr.strip()}", file=sys.stderr)
                return None
            summary = json.loads(done.stdout)
            row = {"label": " ".join(w.removeprefix("--") for w in wish), "side": "squizd", "calibrated": calibrated,
                   "bytes": summary["bytes"], "bpw": summary["bpw"], "snr_db": summary["mean_snr_db"],
                   "seconds": summary["seconds"], **self.judge(file)}
            os.remove(file)
            return row
        label = " ".join(wish) + (" +calibration" if calibrated else "")
        return self.cached(label, [wish, calibrated], make)

    def llama(self, kind, calibrated):
        """One of llama.cpp's types; None where it cannot make it."""
        def make():
            import gguf

            source = self.gguf()
            quantized = os.path.join(self.folder, "llama.gguf")
            matrix = "-"
            if calibrated:
                matrix = os.path.join(self.folder, "imatrix.npz")
                imatrix(self.calibration, matrix)
            done = run([sys.executable, "-c", QUANTIZE, source, quantized, kind, self.a.threads, matrix], check=False)
            if done.returncode != 0:
                print(f"  skipped: llama.cpp does not make {kind}: {done.stderr.strip()[-200:]}", file=sys.stderr)
                return None
            reader = gguf.GGUFReader(quantized)
            data = sum(int(t.n_bytes) for t in reader.tensors)
            weights = sum(int(t.n_elements) for t in reader.tensors)
            back = os.path.join(self.folder, "back.squizd")
            run([self.squizd, "convert", quantized, "-o", back, "--codec", "raw", "-q"])
            diff = run([self.squizd, "diff", self.reference, back, "--json"], check=False)
            snr = [t["distance"]["snr_db"] for t in json.loads(diff.stdout)["tensors"]
                   if t.get("distance") and t["distance"].get("snr_db") is not None]
            row = {"label": kind, "side": "llama.cpp", "calibrated": calibrated, "bytes": os.path.getsize(quantized),
                   "bpw": data * 8 / weights, "snr_db": sum(snr) / len(snr) if snr else None, **self.judge(back)}
            os.remove(back)
            os.remove(quantized)
            return row
        return self.cached(f"llama {kind}" + (" +imatrix" if calibrated else ""), [kind, calibrated], make)

    def gguf(self):
        if not os.path.isdir(self.source):
            return self.source
        path = os.path.join(self.folder, "source.gguf")
        if not os.path.exists(path):
            write_gguf(self.source, path)
        return path

    def rows(self):
        only = self.a.only
        wanted = lambda label: only is None or any(o in label for o in only)
        rows = [self.ours(w, False) for w in PLAIN if wanted(w[0])]
        autos = [["auto", "--target-bpw", t] for t in AUTO] if wanted("auto") else []
        rows += [self.ours(w, False) for w in autos]
        if self.calibration:
            rows += [self.ours(w, True) for w in CALIBRATED + autos if wanted(w[0])]
        kinds = [k for k in LLAMA if wanted(k)]
        rows += [self.llama(k, False) for k in kinds if k not in IMATRIX_ONLY]
        if self.calibration:
            rows += [self.llama(k, True) for k in kinds if k != "Q8_0"]
        return sorted((r for r in rows if r), key=lambda r: -r["bpw"])


def table(rows):
    lines = ["| | codec | calibration | bits/weight | file MB | SNR dB | perplexity | ratio | KL divergence | 99 % | same top token |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        snr = "" if r["snr_db"] is None else f"{r['snr_db']:.2f}"
        lines.append(f"| {r['side']} | {r['label']} | {'yes' if r['calibrated'] else ''} | {r['bpw']:.3f} | {r['bytes'] / 1e6:.2f} "
                     f"| {snr} | {r['ppl']:.3f} | {r['ppl_ratio']:.4f} | {r['kld']['mean']:.5f} | {r['kld']['p99']:.4f} "
                     f"| {100 * r['top1_agreement']:.2f} % |")
    return lines


def duel(rows):
    """For each of llama.cpp's rows, ours of least divergence at the same or fewer bits."""
    lines = ["| llama.cpp | bits/weight | KL divergence | ours at no more bits | bits/weight | KL divergence | of theirs |",
             "|---|---|---|---|---|---|---|"]
    for theirs in (r for r in rows if r["side"] == "llama.cpp"):
        rivals = [r for r in rows if r["side"] == "squizd" and r["bpw"] <= theirs["bpw"]
                  and r["calibrated"] == theirs["calibrated"]]
        kind = theirs["label"] + (" + imatrix" if theirs["calibrated"] else "")
        head = f"| {kind} | {theirs['bpw']:.3f} | {theirs['kld']['mean']:.5f} "
        if rivals:
            best = min(rivals, key=lambda r: r["kld"]["mean"])
            share = best["kld"]["mean"] / theirs["kld"]["mean"]
            lines.append(head + f"| {best['label']} | {best['bpw']:.3f} | {best['kld']['mean']:.5f} | {share:.2f} |")
        else:
            lines.append(head + "| none | | | |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=SOURCE", help="a Qwen3 folder or a GGUF")
    parser.add_argument("--text", required=True, help="text to judge by")
    parser.add_argument("--bytes", type=int, default=65536, help="how much of it, from its start")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--calibration-text", help="text to calibrate with; must not be the text to judge by")
    parser.add_argument("--calibration-tokens", type=int, default=65536)
    parser.add_argument("--squizd", default="target/release/squizd")
    parser.add_argument("--work", default="target/results")
    parser.add_argument("--output", default="docs/results", help="folder of codecs.md and codecs.json")
    parser.add_argument("--only", nargs="+", help="only rows whose label contains one of these")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    os.makedirs(arguments.work, exist_ok=True)
    os.makedirs(arguments.output, exist_ok=True)
    text = ["# Codecs, measured", "",
            "Written by `scripts/results_table.py`, both sides by one protocol: perplexity and KL divergence from the unquantized "
            f"model over the first {arguments.bytes:,} bytes of `{os.path.basename(arguments.text)}` in windows of {arguments.ctx} "
            "tokens, computed by `squizd eval kld`; llama.cpp's files were converted back by exact dequantization. Bits per weight "
            "count tensor data with all scales, tables and padding; tokenizer and metadata are left out on both sides. SNR is the "
            "mean over the tensors that are stored with loss. Calibration: "
            + (f"{arguments.calibration_tokens:,} tokens of `{os.path.basename(arguments.calibration_text)}`, as Hessians for ours "
               "and as an imatrix of the same activations for llama.cpp." if arguments.calibration_text else "none.")]
    results = {}
    for model in arguments.models:
        name, separator, source = model.partition("=")
        if not separator:
            parser.error(f"{model!r} must be NAME=SOURCE")
        rows = Bench(arguments, name, source).rows()
        results[name] = rows
        text += ["", f"## {name}", ""]
        if rows:
            text += [f"Reference perplexity {rows[0]['reference_ppl']:.4f} over {rows[0]['tokens']:,} tokens.", "", *table(rows), "",
                     "Least divergence of ours at no more bits than llama.cpp's, with and without calibration apart:", "", *duel(rows)]
    with open(os.path.join(arguments.output, "codecs.md"), "w") as file:
        file.write("\n".join(text) + "\n")
    with open(os.path.join(arguments.output, "codecs.json"), "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
