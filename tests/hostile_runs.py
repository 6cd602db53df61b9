"""Runs that are damaged, hostile or odd: a good run's copy is made so in each of many ways."""

import json
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_runs import train

from segtrain.run import Run

DEEP = "[" * 5000 + "]" * 5000
ODD_NAME = os.fsdecode(b"patient-\xff")  # no UTF-8
Way = Callable[[Run], None]


def beside(root: Path, way: Way) -> None:
    """Three runs of one variant each in the folder: two good ones, and between them one that the way made hostile."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("a-seed1", "b-seed1", "c-seed1"):
        good(root / name)
    way(Run(root / "b-seed1"))


def good(root: Path) -> Run:
    """A finished run with a checkpoint."""
    run = train(root)
    folder = run.checkpoint(30)
    folder.mkdir(parents=True)
    checkpoint_in(folder)
    for pointer in (run.best_pointer, run.latest_pointer):
        pointer.write_text(f"{folder.name}\n")
    return run


def checkpoint_in(folder: Path) -> None:
    """A whole checkpoint, without torch."""
    from segtrain.run import manifest

    for name in ("model.safetensors", "optimizer.safetensors"):
        (folder / name).write_bytes(struct.pack("<Q", 2) + b"{}")
    (folder / "state.json").write_text('{"step": 30}')
    listed = {name: manifest.fingerprint(folder / name) for name in sorted(manifest.TO_TRAIN)}
    (folder / "manifest.json").write_text(json.dumps(manifest.manifest_of(listed)))


def holds(file: str, text: str | bytes) -> Way:
    """A file of the run has this content."""

    def make(run: Run) -> None:
        content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        (run.root / file).write_bytes(content)

    return make


def cut(file: str) -> Way:
    """A file of the run ends in the middle, in a line's first word: half of a YAML file's lines may be a whole one."""

    def make(run: Run) -> None:
        content = (run.root / file).read_bytes()
        lines = content.splitlines(keepends=True)  # by their number: lengths are those of the times of day in them
        middle = len(lines) // 2
        half = b"".join(lines[:middle]) + lines[middle][:4] if middle else content[: len(content) // 2]
        (run.root / file).write_bytes(half)

    return make


def instead(file: str, put: Callable[[Path], Any]) -> Way:
    """Something else is in the place of a file of the run."""

    def make(run: Run) -> None:
        (run.root / file).unlink(missing_ok=True)
        put(run.root / file)

    return make


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def door(path: Path) -> None:
    """A socket, whose name may have 107 bytes."""
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


KINDS: dict[str, Callable[[str], Way]] = {
    "cut": cut,
    "empty": lambda file: holds(file, ""),
    "no-json": lambda file: holds(file, "not JSON"),
    "zeros": lambda file: holds(file, bytes(4096)),
    "number": lambda file: holds(file, "5"),
    "null": lambda file: holds(file, "null\n"),
    "deep": lambda file: holds(file, DEEP),
    "huge-number": lambda file: holds(file, "9" * 5000),
    "latin": lambda file: holds(file, b'{"message": "\xe9"}'),
    "folder": lambda file: instead(file, Path.mkdir),
    "pipe": lambda file: instead(file, pipe),
    "itself": lambda file: instead(file, link_to_itself),
    "nowhere": lambda file: instead(file, link_to_nowhere),
    "endless": lambda file: instead(file, endless),
    "door": lambda file: instead(file, door),
}
JSON_FILES = ("environment.json", "split.json", "metrics.jsonl", "outcome.json", "config.yaml")


def changed(file: str, change: Callable[[Any], Any]) -> Way:
    """The JSON of a file, or of the last line of one, with a change."""

    def make(run: Run) -> None:
        lines = (run.root / file).read_text().splitlines(keepends=True) if file.endswith(".jsonl") else []
        last = lines.pop() if lines else (run.root / file).read_text()
        tree = json.loads(last)
        text = json.dumps(change(tree) or tree)
        (run.root / file).write_text("".join(lines) + text + "\n")

    return make


def png(width: int, height: int) -> bytes:
    """A picture of some kilobytes, however large it is when it is unfolded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + width * 3)
    pixels = b"".join(packer.compress(row) for _ in range(min(height, 64))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def odd_copies(run: Run) -> None:
    """Copies with the names that file managers, editors and people give."""
    for name in ("step-00000030 (copy)", ".~lock.step-00000030#", "step-12.bak", "step-00000030~", "old"):
        shutil.copytree(run.checkpoint(30), run.checkpoints / name)
    for name in ("epoch-0003 (copy).csv", ".~lock.epoch-0003.csv#", "epoch-0003.csv.bak", "epoch-3.csv", "notes"):
        shutil.copy(run.validation_table(3), run.validation / name)


def many_links(run: Run) -> None:
    """Links to the folder above, to itself, to nothing, and in circles."""
    (run.root / "up").symlink_to("..")
    (run.root / "self").symlink_to("self")
    (run.root / "nowhere").symlink_to("nothing/here")
    for one, other in (("one", "other"), ("other", "one")):
        (run.root / one).mkdir()
        (run.root / one / "on").symlink_to(f"../{other}", target_is_directory=True)


def event(**values: Any) -> Way:
    return changed("metrics.jsonl", lambda tree: tree | values)


def outcome(**values: Any) -> Way:
    return changed("outcome.json", lambda tree: tree | values)


# By what one of the readers must say of it. "" of what is no damage: passed over, or shown as it is.
WAYS: dict[str, tuple[Way, str]] = {
    "event-text": (event(val_dsc="good"), 'val_dsc is "good", not a number'),
    "event-null": (event(val_loss=None), "val_loss is null, not a number"),
    "event-nan": (event(val_dsc=float("nan")), "val_dsc is NaN, not a number"),
    "event-infinite": (event(time=1e300), "time is 1e+300, not a number"),
    "event-late": (event(time=1e12), "time is 1e+12"),
    "event-large": (event(step=10**400), "step is 1000"),
    "event-zero": (event(epoch=0, step=0), "step, epoch and n are 0, 0 and 6"),
    "event-list": (event(regions=[]), "regions is a list"),
    "event-region": (event(regions={"whole": {}}), 'region "whole" has no dsc'),
    "event-short": (changed("metrics.jsonl", lambda tree: {"event": "evaluation"}), "is missing"),
    "event-unknown": (changed("metrics.jsonl", lambda tree: {"event": []}), "it is no event"),
    "event-long": (event(per_patient="x" * 2_000_000), "a line of more than 1 MiB"),
    "outcome-text": (outcome(step="many"), 'step is "many", not a whole number'),
    "outcome-state": (outcome(state="{{7*7}}"), "which no run does"),
    "outcome-list": (outcome(best_dsc=[0.9]), "best_dsc is a list"),
}
