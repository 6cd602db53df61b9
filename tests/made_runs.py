"""Run directories as training leaves them, made without training."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segtrain.config import from_tree
from segtrain.evaluation.metrics import EMPTY_RULE
from segtrain.run import Environment, Outcome, Run
from segtrain.run.events import EvaluationEvent, TrainEvent
from segtrain.run.outcome import State

HOSTILE = "<script>alert(1)</script>|`x`"
PATIENTS = tuple(f"patient{number}" for number in range(6))
BEST_IS_FIRST = (0.9, 0.5, 0.7)  # mean DSC by epoch


REGIONS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
SCANS = {f"patient{number}": f"person{number // 2}" for number in range(6)}  # two of each person


def train(
    root: Path,
    shift: float | Mapping[str, float] = 0.0,
    state: State | Literal["running"] = "finished",
    patients: tuple[str, ...] = PATIENTS,
    people: Mapping[str, str] | None = None,
    wobble: float = 0.0,
) -> Run:
    """A run directory as training leaves it: three epochs, pictures, an end.

    `shift`: of every DSC; by region of a run of REGIONS, where each later region is harder by a tenth. `wobble`: added
    to every other patient's DSC, and taken from the rest.
    """
    run = Run(root)
    tree: dict[str, Any] = {"name": "any", "train": {"epochs": 3}, "loss": "dice" if shift == 0 else "dice_bce"}
    for key, value in re.findall(r"-(fold|seed)(\d+)", root.name):
        tree |= {"seed": int(value)} if key == "seed" else {"data": {"split": "kfold", "fold": int(value)}}
    if isinstance(shift, Mapping):
        data = {
            "source": "nifti",
            "root": "/no",
            "regions": REGIONS,
            "contrasts": ["t1", "FLAIR", "t1ce"],
            "ignore": [4],
            "spacing_mm": 0.9,
        }
        tree["data"] = tree.get("data", {}) | data
    cfg = from_tree(tree, "test")
    split = {"hash": "0", "train": [], "validation": list(patients)} | ({"people": dict(people)} if people else {})
    run.open(cfg, split, [], Environment.now(1, "cpu"))
    shifts: Mapping[str, float] = shift if isinstance(shift, Mapping) else {"": shift}
    for epoch, dsc in enumerate(BEST_IS_FIRST, start=1):
        for step in (epoch * 10 - 5, epoch * 10):
            run.record(train_event(step, loss=1 / step, images_per_s=float(step)))
        values = {
            region: {
                patient: dsc + of_region + 0.01 * place - 0.1 * number + wobble * (-1) ** place
                for place, patient in enumerate(patients)
            }
            for number, (region, of_region) in enumerate(shifts.items())
        }
        run.write_picture(epoch, np.full((64, 96, 3), 20 * epoch, np.uint8))
        run.write_scores(epoch, [
            {"patient": patient, **({"region": region} if region else {}), "slices": 3, "voxels": 9, "tp": 5, "fp": 1,
             "fn": 4, "dsc": f"{values[region][patient]:.6f}", "dsc_all_components": "0.5"}
            for patient in patients for region in shifts
        ])  # fmt: skip
        means = {region: math.fsum(own.values()) / len(own) for region, own in values.items()}
        more: dict[str, Any] = {"n": len(patients), "val_loss": 1 / epoch, "best": epoch == 1}
        if isinstance(shift, Mapping):
            more["regions"] = {region: {"dsc": mean, "median": mean} for region, mean in means.items()}
        if people:
            more["people"] = len({people.get(patient, patient) for patient in patients})
        run.record(evaluation_event(epoch * 10, epoch, math.fsum(means.values()) / len(means), **more))
    if state != "running":
        run.end(Outcome(state, 30, 3, 0.9, message=None if state == "finished" else f"loss is nan {HOSTILE}"))
    return run


def train_event(step: int, loss: float = 1.0, images_per_s: float = 5.0) -> TrainEvent:
    return TrainEvent(step=step, loss=loss, lr=1e-3, images_per_s=images_per_s, memory_gib=1.0)


def evaluation_event(step: int, epoch: int, val_dsc: float, **values: Any) -> EvaluationEvent:
    others: dict[str, Any] = {"val_loss": 1.0, "n": 3, "best": True, "empty_masks": EMPTY_RULE} | values
    return EvaluationEvent(step=step, epoch=epoch, val_dsc=val_dsc, **others)
