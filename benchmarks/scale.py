"""How the work between `segtrain train` and the first step, without the network, grows with the number of patients.

python -m benchmarks.scale                                      # 100 to 100,000 patients, on one core
python -m benchmarks.scale --patients 100 1000 --json scale.json

Stores are made up: an index of patients of 28 to 32 slices, and empty files of the right size, which are links to a few
sparse ones. Each piece of work has a process of its own, whose memory is counted from the moment the work begins.
benchmarks/growth.py says how.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from benchmarks.growth import Growth, Work
from segtrain.config import Config, load_config
from segtrain.data.store_columns import write_index
from segtrain.errors import ConfigError
from segtrain.runtime import files
from segtrain.runtime.process import run_command

SLICES = range(28, 33)
SIZE_PX = 256
MOST_LINKS = 20_000  # to one file; ext4 takes 65,000


def make_store(folder: Path, patients: int, slices: range = SLICES, size_px: int = SIZE_PX) -> None:
    """A store of so many patients: a real index, and files of zeros that take no place."""
    if (folder / "index.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    entries = [_entry(number, slices[number % len(slices)], size_px) for number in range(patients)]
    digests: dict[tuple[str, int], str] = {}
    for number, entry in enumerate(entries):
        for kind, size in entry["bytes"].items():
            sparse = folder / f"{kind}-{size}-{number // MOST_LINKS}"
            if not sparse.exists():
                sparse.touch()
                os.truncate(sparse, size)
            if (kind, size) not in digests:
                digests[kind, size] = files.sha256(sparse)
            entry["sha256"][kind] = digests[kind, size]
            (folder / kind / f"{entry['patient']}.npy").hardlink_to(sparse)
    write_index(folder, {"label": "made up", "size_px": size_px, "skipped": {}, "warnings": []}, entries)


def _entry(number: int, slices: int = SLICES.start, size_px: int = SIZE_PX) -> dict[str, Any]:
    """A patient as the index has it."""
    pixels = slices * size_px**2
    areas = [min(max(0, (number * 131 + place * 977) % 4000 - 2000), size_px**2) for place in range(slices)]
    digest = f"{number:064x}"
    return {
        "patient": f"patient_{number:06d}",
        "institution": f"site {number % 7}",
        "areas": areas,
        "slice_numbers": list(range(3, 3 + slices)),
        "geometry": {
            "source_shape": [slices + 4, 240, 240],
            "box": [[2, 2 + slices], [30, 210], [40, 200]],
            "pad": [[0, 0], [10, 10]],
            "size_px": size_px,
            "resampled_px": None,
        },
        "missing_channels": [],
        "unlabelled": [],
        "spacing_mm": [5.0, 0.9375, 0.9375],
        "label_voxels": {"0": pixels - sum(areas), "255": sum(areas)},
        "region_voxels": [sum(areas)],
        "person": None,
        "pixels": digest[-32:],
        "mask": digest[-32:],
        "bytes": {"images": 128 + 6 * pixels, "masks": 128 + pixels},
        "sha256": {},
    }


def _config(*overrides: str) -> Config:
    return load_config(None, ["data.source=lgg", "data.root=.", "train.global_batch=16", *overrides])


def _open(check_files: bool) -> Callable[[Path], Work]:
    def setup(store: Path) -> Work:
        from segtrain.data.store import open_store

        return lambda: open_store(store, check_files)

    return setup


def _index_text(store: Path) -> Work:
    return lambda: json.loads((store / "index.json").read_text(encoding="utf-8"))


def _split(kind: str) -> Callable[[Path], Work]:
    def setup(store: Path) -> Work:
        from segtrain.data.splits import make_split
        from segtrain.data.store import open_store

        cfg, opened = _config(f"data.split={kind}").data, open_store(store)
        return lambda: make_split(cfg, opened)

    return setup


def _order(sampling: str) -> Callable[[Path], Work]:
    """Order and world size, without the split."""

    def setup(store: Path) -> Work:
        from segtrain.data.order import make_order
        from segtrain.data.splits import make_split
        from segtrain.data.store import open_store

        cfg, opened = _config("data.split=kfold", f"data.sampling={sampling}"), open_store(store)
        split = make_split(cfg.data, opened)
        return lambda: make_order(cfg, opened, split).columns(0, 8)

    return setup


def _epoch(sampling: str) -> Callable[[Path], Work]:
    def setup(store: Path) -> Work:
        from segtrain.data.order import plan_order
        from segtrain.data.store import open_store

        cfg, opened = _config("data.split=kfold", f"data.sampling={sampling}"), open_store(store)
        _, order = plan_order(cfg, opened, 8)
        return lambda: order.plan(0)

    return setup


def _misfit(store: Path) -> Work:
    """The error of a number of ranks that does not fit, which names those that do."""
    from segtrain.data.order import plan_order
    from segtrain.data.store import open_store

    cfg, opened = _config("data.split=kfold"), open_store(store)
    _, order = plan_order(cfg, opened, 1)

    def work() -> None:
        with suppress(ConfigError):
            order.columns(0, 3)

    return work


def _assign(store: Path) -> Work:
    from segtrain.data.store import open_store
    from segtrain.evaluation.evaluate import assign

    opened = open_store(store)
    slices = opened.columns.slices_of(opened.patients)
    return lambda: assign(slices, 1024)


def _write_index(store: Path) -> Work:
    """What `prepare` does when all patients are written."""
    index = json.loads((store / "index.json").read_text())
    entries = index.pop("patients")
    folder = store / "index"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return lambda: write_index(folder, index, entries)


def _data_hash(store: Path) -> Work:
    from segtrain.data.order import plan_order
    from segtrain.data.store import open_store
    from segtrain.training.start import Start

    cfg, opened = _config("data.split=kfold"), open_store(store)
    split, order = plan_order(cfg, opened, 8)
    absent = cast(Any, None)  # the hash looks at none of them
    start = Start(cfg, absent, absent, absent, opened, split, order, absent, absent)
    return lambda: start.data_hash


def _write_split(store: Path) -> Work:
    from segtrain.data.splits import make_split
    from segtrain.data.store import open_store
    from segtrain.training.session import split_tree

    opened = open_store(store)
    split = make_split(_config("data.split=kfold").data, opened)
    return lambda: files.write_json(store / "split.json", split_tree(opened, split))


def _read_split(store: Path) -> Work:
    from segtrain.run import Run

    _write_split(store)()
    return lambda: Run(store).split_record()


def _plan(store: Path) -> Work:
    """All that a rank which is not the first of its node does with the data before it reads images."""
    from segtrain.data.order import plan_order
    from segtrain.data.store import open_store

    cfg = _config("data.split=kfold")

    def work() -> None:
        _, order = plan_order(cfg, open_store(store, check_files=False), 8)
        order.plan(0)

    return work


PIECES: dict[str, Callable[[Path], Work]] = {
    "the index as JSON": _index_text,
    "write the index": _write_index,
    "open the store": _open(check_files=True),
    "open, files unchecked": _open(check_files=False),
    "open to the first epoch, files unchecked": _plan,
    "split, kfold": _split("kfold"),
    "split, reference": _split("reference"),
    "order, lesion": _order("lesion"),
    "order, uniform": _order("uniform"),
    "an epoch, lesion": _epoch("lesion"),
    "an epoch, uniform": _epoch("uniform"),
    "3 ranks do not fit": _misfit,
    "hash of the data": _data_hash,
    "to score on 1,024 ranks": _assign,
    "write split.json": _write_split,
    "read split.json": _read_split,
}


GROWTH = Growth(
    "benchmarks.scale",
    "From the command to the first step, by patients",
    "patients",
    (100, 1_000, 10_000, 100_000),
    make_store,
    PIECES,
    Path(".bench/scale"),
)


def command(argv: Sequence[str]) -> int:
    """Make the stores, measure each piece at each size, print the table."""
    return GROWTH.command(argv, __doc__)


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
