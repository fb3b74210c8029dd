"""llama.cpp for `squizd bench`: one JSON line about the model, then one per line of input.

Arguments: GGUF, quantization or "-", bits per weight to be near to, prompt tokens, decoding steps, context, threads.
A file of another quantization is converted to the asked or nearest one first. As in llama-bench, the tokens are fixed
and nothing is sampled: what is timed is llama_decode.
"""
import ctypes
import json
import os
import sys
import tempfile
import time

import llama_cpp as l

TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K"]
BITS = {"BF16": 16.0, "F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.67, "Q5_0": 5.5, "Q4_K_M": 4.83, "Q4_1": 5.0,
        "Q4_0": 4.5, "Q3_K_M": 3.89, "Q2_K": 3.16}

# What llama-quantize takes these names for.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def load(path):
    parameters = l.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = l.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        sys.exit(f"llama.cpp does not load {path}")
    return model


def kind(model):
    """The quantization as llama.cpp describes it: `llama ?B Q4_1` -> `Q4_1`."""
    buffer = ctypes.create_string_buffer(256)
    l.llama_model_desc(model, buffer, len(buffer))
    words = buffer.value.decode().replace(" - Medium", "_M").replace(" - Small", "_S").split()
    return words[-1]


def quantize(source, target, name):
    parameters = l.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = getattr(l, "LLAMA_FTYPE_MOSTLY_" + name), True
    if l.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)) != 0:
        sys.exit(f"llama.cpp does not make {name} of {source}")


def main():
    source, wish, bits, prompt, steps, context, threads = sys.argv[1:8]
    bits, prompt, steps, context, threads = float(bits), int(prompt), int(steps), int(context), int(threads)
    l.llama_log_set(silent, None)
    l.llama_backend_init()
    model = load(source)
    own = kind(model)
    wish = ALIASES.get(wish, wish)
    if wish == "-":
        wish = min({own, *TYPES} & BITS.keys(), key=lambda t: (abs(BITS[t] - bits), t != own))
    if wish != own:
        l.llama_model_free(model)
        with tempfile.TemporaryDirectory() as folder:
            target = os.path.join(folder, "model.gguf")
            quantize(source, target, wish)
            model = load(target)
    parameters = l.llama_context_default_params()
    parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = context, max(prompt, 32), 512
    parameters.n_threads = parameters.n_threads_batch = threads
    session = l.llama_init_from_model(model, parameters)
    if not session:
        sys.exit("llama.cpp makes no context")
    vocabulary = l.llama_vocab_n_tokens(l.llama_model_get_vocab(model))
    ids = [(i * 7919 + 13) % vocabulary for i in range(max(prompt, 1))]
    tokens = (l.llama_token * len(ids))(*ids)
    one = (l.llama_token * 1)()

    def decode(pointer, count):
        if l.llama_decode(session, l.llama_batch_get_one(pointer, count)) != 0:
            sys.exit("llama_decode failed")
        l.llama_synchronize(session)

    def trial():
        l.llama_memory_clear(l.llama_get_memory(session), True)
        start = time.perf_counter()
        decode(tokens, len(ids))
        middle = time.perf_counter()
        for i in range(steps):
            one[0] = ids[i % len(ids)]
            decode(one, 1)
        end = time.perf_counter()
        return {"prefill": len(ids) / (middle - start) if prompt > 0 else None,
                "decode": steps / (end - middle) if steps > 0 else None}

    # A build that cannot compute here shows before anything else is set up.
    trial()
    size, weights = l.llama_model_size(model), l.llama_model_n_params(model)
    print(json.dumps({"quantization": wish, "bits_per_weight": size * 8 / weights,
                      "version": f"llama-cpp-python {l.__version__}"}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(trial()), flush=True)


main()
