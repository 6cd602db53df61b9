"""Files damaged in random ways, as the kind of file that their name says.

Each mutation is a pure function of content and generator, so that an input comes back from its seed.
"""

import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

import formats
import yaml
from damage import NASTY, TOKENS, of_bytes, replaced, text_of


def mutated(name: str, content: bytes, rng: random.Random) -> bytes:
    """The content, damaged once or a few times, as the kind of file that the name says."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        structural = _structural(name)
        if structural is not None and rng.random() < 0.7:
            try:
                content = structural(content, rng)
                continue
            except (ValueError, LookupError, TypeError, struct.error, OSError, EOFError, zlib.error, RecursionError):
                pass  # an earlier damage has left no structure
            except (yaml.YAMLError, zipfile.BadZipFile, NotImplementedError):
                pass
        content = of_bytes(content, rng)
    return content


def _structural(name: str) -> Callable[[bytes, random.Random], bytes] | None:
    endings: dict[str, Callable[[bytes, random.Random], bytes]] = {
        ".json": _json,
        ".jsonl": _json_lines,
        ".yaml": _yaml,
        ".csv": _csv,
        ".png": formats.png,
        ".tif": formats.tiff,
        ".nii": formats.nifti,
        ".nii.gz": formats.gzipped_nifti,
        ".safetensors": formats.safetensors,
        ".pt": formats.torch_file,
        ".npy": formats.npy,
    }
    fitting = [ending for ending in endings if name.lower().endswith(ending)]
    return endings[max(fitting, key=len)] if fitting else None


def _json(content: bytes, rng: random.Random) -> bytes:
    return text_of(replaced(json.loads(content), rng), rng)


def _json_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    if rng.random() < 0.7:
        lines[place] = _json(lines[place], rng) + b"\n"
    else:
        lines.insert(rng.randrange(len(lines)), lines[place])
    return b"".join(lines)


def _yaml(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        lines = content.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        lines[place] = rng.choice(("a: ", "  ", "- ", "name: ", "? ")).encode() + rng.choice(TOKENS) + b"\n"
        return b"".join(lines)
    if content.count(b"[") + content.count(b"{") > 2000:
        raise ValueError("libyaml would recurse until its stack is full")
    return text_of(replaced(yaml.load(content, yaml.CSafeLoader), rng), rng)


def _csv(content: bytes, rng: random.Random) -> bytes:
    rows = [line.split(b",") for line in content.splitlines()]
    row = rng.choice(rows)
    value = rng.choice(NASTY)
    text = json.dumps(value) if not isinstance(value, str) else value
    row[rng.randrange(len(row))] = text.encode(errors="surrogatepass")
    if rng.random() < 0.2:
        row.append(b"more")
    return b"\n".join(b",".join(row) for row in rows)
