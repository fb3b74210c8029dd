#!/usr/bin/env python3
"""What NVIDIA's driver makes of the GPU kernels: machine code, registers, instructions.

    __GL_SHADER_DISK_CACHE_PATH=/tmp/cache squizd bench kernels --codec int4 --shape 8192x28672
    scripts/driver_code.py /tmp/cache [--nvdisasm PATH]

The driver keeps compiled kernels under that folder, an index (*.toc) and a container
(*.bin) of zstd-compressed objects (format: https://github.com/therontarigo/nvcachetools).
For every kernel this writes kernelN.sass beside the index, and prints its registers, its
instructions, and the kinds of those in its largest innermost loop. Needs the command `zstd`
and CUDA's `nvdisasm` (package nvidia-cuda-nvdisasm of PyPI, or a CUDA toolkit). Seen to
work with driver 580 and an H200; other GPUs need another --sm.
"""

import argparse
import collections
import pathlib
import re
import struct
import subprocess
import tempfile

SECTION = 0x9846A19D
# Of an object's sections: registers, code.
REGISTERS, CODE = 3, 1


def objects(toc):
    """The unpacked objects of an index."""
    index, container = toc.read_bytes(), toc.with_suffix(".bin").read_bytes()
    for entry in range(0x20, len(index) - 0x17, 0x18):
        offset, _ = struct.unpack_from("<2I", index, entry + 16)
        head = struct.unpack_from("<9I", container, offset)
        if head[0] != SECTION:
            raise SystemExit(f"{toc}: no section at byte {offset} of its container")
        packed = container[offset + 0x24 : offset + 0x20 + head[7]]
        yield subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=True).stdout


def sections(item):
    """The sections of a compiled kernel by kind, if it is one."""
    start = item.find(b"NVuc")
    if start not in (0, 4, 8):
        return {}
    item = item[start:]
    count = struct.unpack_from("<I", item, 8)[0] & 0xFFFF
    table = [struct.unpack_from("<3I", item, 32 + 32 * i) for i in range(count)]
    return {kind: item[offset : offset + length] for kind, length, offset in table}


def disassemble(tool, sm, code):
    with tempfile.NamedTemporaryFile() as file:
        file.write(code)
        file.flush()
        done = subprocess.run([tool, "--binary", sm, file.name], capture_output=True, text=True, check=True)
    return done.stdout


def innermost(instructions):
    """The longest loop that holds no other, as its instructions."""
    jumps = []
    for at, text in instructions:
        target = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < at:
            jumps.append((int(target[1], 16), at))
    inner = [j for j in jumps if not any(k != j and j[0] <= k[0] and k[1] <= j[1] for k in jumps)]
    start, end = max(inner, key=lambda j: j[1] - j[0], default=(1, 0))
    return [text for at, text in instructions if start <= at <= end]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=pathlib.Path)
    parser.add_argument("--nvdisasm", default="nvdisasm")
    parser.add_argument("--sm", default="SM90a")
    args = parser.parse_args()
    for toc in sorted(args.cache.rglob("*.toc")):
        kernels = filter(None, map(sections, objects(toc)))
        for number, kernel in enumerate(kernels):
            if CODE not in kernel:
                continue
            text = disassemble(args.nvdisasm, args.sm, kernel[CODE])
            out = toc.parent / f"kernel{number}.sass"
            out.write_text(text)
            lines = re.finditer(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", text)
            instructions = [(int(m[1], 16), m[2].strip()) for m in lines]
            loop = innermost(instructions)
            kinds = (re.sub(r"^@!?U?P\d+ ", "", text).split()[0].split(".")[0] for text in loop)
            common = ", ".join(f"{n} {kind}" for kind, n in collections.Counter(kinds).most_common(12))
            registers = kernel.get(REGISTERS, b"\0")[0]
            print(f"{out}: {registers} registers, {len(instructions)} instructions, loop of {len(loop)}: {common}")


if __name__ == "__main__":
    main()
