"""Damage to bytes, and to nested structures, by values that programs stumble over."""

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

DEEP = "@deep@"  # stands for thousands of brackets, which no writer of JSON would write
NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 255, 256, 2**31 - 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400,
    0.0, -0.0, 0.5, 1e-320, 1e300, -1e300, math.inf, -math.inf, math.nan, "", " ", "0", "NaN", "1e-3", "1e999", "null",
    "\0", "\x1b[31m", "\ud800", "\u202e", "\n", "\r\n", "é", "../../../etc/passwd", "/dev/zero", "/", ".", "..", "~",
    "~nobody-of-this-name/x", "a" * 300, "a" * 20_000, "%s%n{0}{x}", "=1+1", "<script>", "a.b.c", "1" * 5000, [], {},
    [[]], [None], {"": None}, {"part": None}, {"part": "dice"}, [1, "a", None], [0] * 1000, {"a": {"b": {}}}, DEEP,
)  # fmt: skip
TOKENS = (
    b"", b"\0", b"\xff", b"\xff\xfe", b"\x1b[2J", b"NaN", b"-Infinity", b"null", b"[" * 3000, b'{"a":' * 3000, b"1e999",
    b"9" * 5000, b"&a *a", b"*a", b"!!python/object/apply:os.system [true]", b"<<: *a", b"---\n", b"\r", b"\n", b"\t",
    b'"', b"'", b"{", b"}", b",", b":", b"\\ud800", b"\xed\xa0\x80", b"%", b"\xe2\x80\xae", b"=1+1", b"0x", b"1_0",
)  # fmt: skip
EDGES = (0, 1, 2, 3, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 1e38, 3e-39, math.inf, -math.inf, math.nan, 1e300, 2.0**62, 351.5)


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes changed, cut off, cut out, doubled, or something put in."""
    place = rng.randrange(len(content) + 1)
    other = rng.randrange(len(content) + 1)
    way = rng.randrange(8)
    if way <= 2 and content:
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            at = rng.randrange(min(len(content), 400)) if rng.random() < 0.5 else rng.randrange(len(content))
            changed[at] = changed[at] ^ 1 << rng.randrange(8) if way < 2 else rng.randrange(256)
        return bytes(changed)
    if way == 3:
        return content[:place]
    if way == 4:
        return content[: min(place, other)] + content[max(place, other) :]
    if way == 5:
        return (
            content[:place] + content[min(place, other) : max(place, other)] * rng.choice((1, 2, 20)) + content[place:]
        )
    if way == 6:
        return content[:place] + rng.choice(TOKENS) + content[place:]
    return content[:place] + rng.choice(TOKENS) + content[max(place, other) :]


def replaced(tree: Any, rng: random.Random, nasty: tuple[Any, ...] = NASTY) -> Any:
    """A nested structure with one node replaced, removed, doubled, or under another key."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(nasty))
    parent, key = rng.choice(places)
    way = rng.random()
    if way < 0.65:
        parent[key] = copy.deepcopy(rng.choice(nasty))
    elif way < 0.75:
        del parent[key]
    elif way < 0.85:
        other, other_key = rng.choice(places)
        parent[key] = copy.deepcopy(other.get(other_key) if isinstance(other, dict) else other[other_key])
    elif isinstance(parent, dict):
        name = rng.choice([value for value in nasty if isinstance(value, str)])
        parent[name] = parent.pop(key) if way < 0.93 else copy.deepcopy(parent[key])
    else:
        parent.insert(key, copy.deepcopy(parent[key]))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield tree, key
        yield from _places(value)


def text_of(tree: Any, rng: random.Random) -> bytes:
    """The structure as JSON, which is YAML as well."""
    deep = rng.choice(("[" * 3000 + "]" * 3000, '{"a":' * 900 + "1" + "}" * 900, "[" * 100_000))
    return json.dumps(tree).replace(f'"{DEEP}"', deep).encode()
