"""Damage to the structure of binary files: headers, chunks, directories and archives that stay readable as such.

Each is a pure function of content and generator. Raises ValueError and others where there is no such structure.
"""

import gzip
import io
import json
import math
import pickle
import random
import struct
import zipfile
import zlib
from typing import Any

from damage import EDGES, FLOATS, of_bytes, replaced, text_of


def png(content: bytes, rng: random.Random) -> bytes:
    chunks = []
    at = 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    place = rng.randrange(len(chunks))
    way = rng.random()
    if way < 0.5:
        place, (name, header) = 0, chunks[0]
        fields = list(struct.unpack(">IIBBBBB", header))
        field = rng.randrange(7)
        values = (0, 1, 2, 3, 4, 6, 8, 16, 32, 255)
        sides = (0, 1, 2, 15, 17, 4096, 13_000, 30_000, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
        fields[field] = rng.choice(sides if field < 2 else values)
        if rng.random() < 0.3:
            fields[0] = fields[1] = rng.choice(sides)
        chunks[0] = name, struct.pack(">IIBBBBB", *fields)
    elif way < 0.7:
        name, data = chunks[place]
        chunks[place] = name, of_bytes(data, rng)
    elif way < 0.8:
        bomb = zlib.compress(b"\0" * rng.choice((10, 10_000, 50_000_000)))
        small = (b"tEXtDpi\0x", b"tRNS\0\0", b"acTL\0\0\0\1\0\0\0\0", b"eXIfMM\0*\0\0\0\x08", b"gAMA\0\0\0\0")
        large = (b"zTXta\0\0" + bomb, b"iCCPa\0\0" + bomb, b"PLTE" + b"a" * 1000, b"fcTL" + b"\0" * 26)
        more = rng.choice((*small, *large))
        chunks.insert(rng.randrange(1, len(chunks)), (more[:4], more[4:]))
    elif way < 0.9:
        chunks.insert(rng.randrange(len(chunks)), chunks[place])
    else:
        del chunks[place]
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff(content: bytes, rng: random.Random) -> bytes:
    """One entry of the first directory changed: tag, type, count or value."""
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    changed = bytearray(content)
    if rng.random() < 0.1:
        struct.pack_into(f"{order}H", changed, start, rng.choice((0, 1, count + 1, 65535)))
        return bytes(changed)
    if rng.random() < 0.1:  # the next directory: itself, or nowhere
        struct.pack_into(f"{order}I", changed, start + 2 + 12 * count, rng.choice((start, 8, 2**31, len(content))))
        return bytes(changed)
    entry = start + 2 + 12 * rng.randrange(count)
    field = rng.choice("tykvv")
    if field == "t":
        tags = (254, 256, 257, 258, 259, 262, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 338, 339, 347, 34665)
        struct.pack_into(f"{order}H", changed, entry, rng.choice(tags))
    elif field == "y":
        struct.pack_into(f"{order}H", changed, entry + 2, rng.choice((0, *range(1, 20))))
    elif field == "k":
        struct.pack_into(f"{order}I", changed, entry + 4, rng.choice(EDGES))
    else:
        struct.pack_into(
            f"{order}I", changed, entry + 8, rng.choice((*EDGES, 5, 6, 7, 32773, 34712, start, len(content)))
        )
    return bytes(changed)


# Offset and format of the fields of a NIfTI-1 header.
NIFTI_FIELDS = (
    (0, "i"), *((40 + 2 * i, "h") for i in range(8)), (70, "h"), (72, "h"), *((76 + 4 * i, "f") for i in range(8)),
    (108, "f"), (112, "f"), (116, "f"), (123, "B"), (252, "h"), (254, "h"), *((256 + 4 * i, "f") for i in range(18)),
    (344, "i"),
)  # fmt: skip
DATA_TYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1, 32767)


def nifti(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        offset, form = rng.choice(NIFTI_FIELDS)
        value: float
        if form == "f":
            value = rng.choice(FLOATS)
            if abs(value) > 1e38 and math.isfinite(value):
                value = 3e38
        elif offset == 70:
            value = rng.choice(DATA_TYPES)
        else:
            value = (
                rng.choice((-1, 0, 1, 2, 3, 4, 5, 7, 8, 100, 1000, 32767, -32768))
                if form == "h"
                else rng.randrange(256)
            )
        struct.pack_into(f"<{form}", changed, offset, value)
        if rng.random() < 0.1:  # all sides at once
            struct.pack_into("<7h", changed, 42, *[rng.choice((1, 100, 1000, 32767))] * 7)
    if rng.random() < 0.15:
        struct.pack_into("<4s", changed, 344, rng.choice((b"ni1\0", b"n+2\0", b"\0\0\0\0", b"xxxx")))
    if rng.random() < 0.1:  # an extension that says it is longer than the file
        changed[348:352] = b"\1\0\0\0"
        changed[352:360] = struct.pack("<ii", rng.choice((0, 8, 15, 16, 2**31 - 1, -16)), rng.choice((0, 4, 6, 40)))
    return bytes(changed)


def gzipped_nifti(content: bytes, rng: random.Random) -> bytes:
    plain = gzip.decompress(content)
    way = rng.random()
    if way < 0.1:  # a bomb in small
        plain += b"\0" * rng.choice((1000, 20_000_000))
    elif way < 0.3:
        plain = of_bytes(plain, rng)
    else:
        plain = nifti(plain, rng)
    return gzip.compress(plain, compresslevel=1, mtime=0)


def safetensors(content: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack_from("<Q", content)
    header, rest = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.15:
        return (
            struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**20, 2**40, 2**63, 2**64 - 1))) + content[8:]
        )
    tree = json.loads(header)
    if rng.random() < 0.5:
        name = rng.choice(sorted(tree))
        if isinstance(tree[name], dict) and "shape" in tree[name]:
            key = rng.choice(("shape", "dtype", "data_offsets"))
            tree[name][key] = {
                "shape": rng.choice(([0], [], [2**62, 2**62], [-1], [2**40], [1] * 100)),
                "dtype": rng.choice(("F64", "I8", "BOOL", "F8_E4M3", "BF16", "U64", "C64", "")),
                "data_offsets": rng.choice(([0, 0], [0, 2**63], [2**40, 2**41], [8, 4], [0])),
            }[key]
        header = json.dumps(tree).encode()
    else:
        header = text_of(replaced(tree, rng), rng)
    return struct.pack("<Q", len(header)) + header + rest


class Trap:
    """A pickle of it makes the folder `sprung` when it is loaded."""

    def __init__(self, call: str) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        import os

        calls: dict[str, Any] = {
            "mkdir": (os.mkdir, ("sprung",)),
            "system": (os.system, ("mkdir sprung",)),
            "eval": (eval, ("__import__('os').mkdir('sprung')",)),
            "exec": (exec, ("import os; os.mkdir('sprung')",)),
            "getattr": (getattr, (os, "getcwd")),
        }
        return calls[self.call]


def torch_file(content: bytes, rng: random.Random) -> bytes:
    """A file of torch.save: entries of the archive, the pickle in it, or a pickle that runs code."""
    trap = Trap(rng.choice(("mkdir", "system", "eval", "exec", "getattr")))
    if rng.random() < 0.1:
        return pickle.dumps(rng.choice((trap, {"a": trap}, [trap])), protocol=rng.choice((0, 2, 4)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(entries))
    inner = next((other for other in entries if other.endswith("data.pkl")), name)
    way = rng.random()
    if way < 0.5:
        entries[inner] = of_bytes(entries[inner], rng)
    elif way < 0.65:
        entries[inner] = pickle.dumps({"weight": trap}, protocol=2)
    elif way < 0.75:
        numbers: Any = rng.choice((2**62, -1, 0, 10**30, 2**31))
        entries[inner] = entries[inner].replace(b"K\x04", pickle.dumps(numbers, protocol=2)[2:-1], rng.choice((1, 3)))
    elif way < 0.85:
        del entries[name]
    else:
        entries[name] = of_bytes(entries[name], rng)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return written.getvalue()


def npy(content: bytes, rng: random.Random) -> bytes:
    shape = rng.choice((b"(99999999999,)", b"(2, 2)", b"()", b"(-1, 4)", b"(1" + b"0" * 30 + b",)"))
    changed = content[:10] + content[10:].replace(b"(", shape[:1], 1)
    if rng.random() < 0.5:
        start, end = changed.index(b"("), changed.index(b")")
        return changed[:start] + shape + changed[end + 1 :]
    return changed[:8] + struct.pack("<H", rng.choice(EDGES[:13])) + changed[10:]
