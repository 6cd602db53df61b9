"""The figures of docs/splits.md: how even folds are, and what a perfect mask is worth in the source's geometry.

python -m benchmarks.splits patients /data/kaggle_3m --out docs/splits/patients.csv    # minutes
python -m benchmarks.splits moves docs/splits/patients.csv                             # from that table alone
python -m benchmarks.splits folds docs/splits/patients.csv
python -m benchmarks.splits ceiling docs/splits/patients.csv
"""

import argparse
import csv
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.folds import fold_of
from segtrain.data.geometry import resize_mask, to_source
from segtrain.data.people import person_of
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources import make_source, read_with_mask
from segtrain.evaluation.metrics import count, largest_component
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text
from segtrain.runtime.process import run_command, start_logging

SIZES_PX = (64, 96, 128, 192, 256)
SEEDS = range(1000)
Rows = Sequence[Mapping[str, str]]


def patients(root: Path) -> list[dict[str, Any]]:
    """A line a patient: lesion voxels in the source, and the DSC there of its own mask, prepared and taken back.

    `largest`: with the largest component alone, as predictions are scored by default.
    """
    cfg = DataConfig(source="lgg", root=str(root), image_size=SIZES_PX[0])
    source = make_source(cfg)
    lines = []
    for patient in source.patients():
        volume, mask_shw = read_with_mask(source, patient)
        geometry = preprocess(volume, Preparation.of(cfg, keeps_empty=False), patient).geometry
        (z0, z1), (y0, y1), (x0, x1) = geometry.box
        line = {
            "patient": patient,
            "institution": source.institution(patient),
            "lesion_voxels": int(mask_shw.astype(bool).sum()),
        }
        for size_px in SIZES_PX:
            of_size = replace(geometry, size_px=size_px)
            prepared = resize_mask(mask_shw[z0:z1, y0:y1, x0:x1], of_size)
            line[f"voxels_at_{size_px}_px"] = int((prepared > 0).sum())
            for name, mask in (("dsc", prepared > 0), ("largest", largest_component(prepared > 0))):
                dsc = count(to_source(mask, of_size), mask_shw > 0).dsc
                line[f"{name}_at_{size_px}_px"] = f"{dsc:.6f}"
        lines.append(line)
    return lines


def ceiling(rows: Rows) -> list[dict[str, Any]]:
    """A line a size."""
    lines = []
    for size_px in SIZES_PX:
        line: dict[str, Any] = {"size_px": size_px, "n": len(rows)}
        for name in ("dsc", "largest"):
            worth = np.array([float(row[f"{name}_at_{size_px}_px"]) for row in rows])
            line |= {f"{name}_mean": f"{worth.mean():.3f}", f"{name}_least": f"{worth.min():.3f}"}
        lines.append(line)
    return lines


def moves(rows: Rows, folds: int = 5, seed: int = 42) -> list[dict[str, Any]]:
    """How many change their fold, by each version: between 64 and 96 px, and when one of them leaves."""
    lines = []
    for name, way in (("version 1", by_volume), ("version 2", by_name)):
        at_64, at_96 = (
            way([{**row, "lesion_voxels": row[f"voxels_at_{px}_px"]} for row in rows], folds, seed) for px in (64, 96)
        )
        before = way(rows, folds, seed)
        moved_by_leaving = []
        for place in range(len(rows)):
            now = way([*rows[:place], *rows[place + 1 :]], folds, seed)
            moved_by_leaving.append(_differing(now, before[:place] + before[place + 1 :]))
        lines.append(
            {
                "way": name,
                "patients": len(rows),
                "moved_64_to_96_px": _differing(at_64, at_96),
                "moved_when_one_leaves_median": int(np.median(moved_by_leaving)),
                "moved_when_one_leaves_most": max(moved_by_leaving),
            }
        )
    return lines


def _differing(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def by_name(rows: Rows, folds: int, seed: int) -> list[int]:
    """Version 2."""
    return [fold_of(person_of(row["patient"]), folds, seed) for row in rows]


def by_hash(rows: Rows, folds: int, seed: int) -> list[int]:
    """A plain hash of the person."""
    names = [f"{seed} {person_of(row['patient'])}" for row in rows]
    return [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % folds for name in names]


def by_volume(rows: Rows, folds: int, seed: int) -> list[int]:
    """Version 1, by the lesion's volume in the source."""
    order = sorted(range(len(rows)), key=lambda n: (rows[n]["institution"], int(rows[n]["lesion_voxels"])))
    rng = np.random.Generator(np.random.Philox(seed))
    dealt = np.empty(len(rows), int)
    for start in range(0, len(rows), folds):
        alike = order[start : start + folds]
        dealt[alike] = rng.permutation(folds)[: len(alike)]
    return dealt.tolist()


WAYS: dict[str, Callable[[Rows, int, int], list[int]]] = {
    "version 1: institution and volume": by_volume,
    "plain hash of the person": by_hash,
    "version 2: neighbours by name": by_name,
}


def evenness(rows: Rows, folds: int) -> list[dict[str, Any]]:
    """A line a way: over seeds, the smallest and largest fold, and fold means of lesion volume over that of all."""
    volumes = np.array([int(row["lesion_voxels"]) for row in rows])
    lines = []
    for way, deal in WAYS.items():
        sizes, spreads = [], []
        for seed in SEEDS:
            dealt = np.array(deal(rows, folds, seed))
            counts = np.bincount(dealt, minlength=folds)
            means = np.bincount(dealt, volumes, minlength=folds) / np.maximum(counts, 1)
            sizes.append((counts.min(), counts.max()))
            spreads.append((means / volumes.mean()).std())
        smallest, largest = np.array(sizes).T
        lines.append(
            {
                "way": way,
                "folds": folds,
                "smallest_median": int(np.median(smallest)),
                "smallest": smallest.min(),
                "largest_median": int(np.median(largest)),
                "largest": largest.max(),
                "sd_of_mean_volume": f"{np.mean(spreads):.2f}",
            }
        )
    return lines


TABLES: dict[str, Callable[[Rows], list[dict[str, Any]]]] = {
    "moves": moves,
    "folds": lambda rows: [*evenness(rows, 5), *evenness(rows, 10)],
    "ceiling": ceiling,
}


def command(argv: Sequence[str]) -> int:
    """Print a table, or write that of the patients."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.splits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("patients", *TABLES))
    parser.add_argument("path", type=Path, help="the folder of patients, or their table")
    parser.add_argument("--out", type=Path, help="where the table of patients goes")
    arguments = parser.parse_args(list(argv))
    start_logging()
    if arguments.what == "patients":
        lines = patients(arguments.path)
    else:
        rows = list(csv.DictReader(arguments.path.read_text(encoding="utf-8").splitlines()))
        lines = TABLES[arguments.what](rows)
    if arguments.out:
        files.write_text(arguments.out, csv_text(lines))
    else:
        print(csv_text(lines), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
