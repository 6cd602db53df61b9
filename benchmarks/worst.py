"""The worst patients of two runs of one split, as outlines only: the project may not show the data's images.

python -m benchmarks.worst runs/lgg-fold0-seed42 runs/lgg_best-fold0-seed42 --out worst.png

One row per patient, the worst of the second run first: the slice in which the second run has the most wrong voxels,
with the first run's prediction on the left and the second's on the right. Prediction red, truth green, yellow where
they agree.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.data.prepare import ensure_store
from segtrain.errors import RunError
from segtrain.evaluation.ensemble import opened, select_checkpoints
from segtrain.evaluation.overlays import Picture, overlay, sheet
from segtrain.report.collect import collect
from segtrain.runtime.process import run_command, start_logging

Volumes = tuple[float, NDArray[np.bool_], NDArray[np.bool_]]  # DSC, prediction, truth


def volumes(run: Path, patients: Sequence[str]) -> dict[str, Volumes]:
    """Each patient as the run's last checkpoint segments it, scored as in training."""
    from segtrain.evaluation.evaluate import score_patient  # imports torch: seconds

    checkpoints = select_checkpoints([run], "last", ["device=cpu"])
    if others := sorted(set(patients) - checkpoints[0].validation):
        raise RunError(f"{run}: does not validate on {others[0]}; name two runs of one split")
    store = ensure_store(checkpoints[0].cfg.data)
    by_patient = {}
    with opened(checkpoints) as predictor:
        for patient in patients:
            score, predicted_rshw, true_rshw = score_patient(predictor, None, store, patient, draw=False)
            by_patient[patient] = score.dsc, np.any(predicted_rshw, axis=0), np.any(true_rshw, axis=0)
    return by_patient


def outlines(of: Volumes, where: int) -> Picture:
    _, predicted, true = of
    return overlay(np.zeros(true.shape[1:]), predicted[where], true[where])


def command(argv: Sequence[str]) -> int:
    """Write the picture and print its path."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.worst", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="two finished runs of one split")
    parser.add_argument("--patients", type=int, default=4, help="number of patients; default 4")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture to write")
    arguments = parser.parse_args(list(argv))
    start_logging()
    (second,) = collect(arguments.runs[1:])
    assert second.last is not None, "a finished run was evaluated"
    table = second.last.by_patient
    worst = sorted(table, key=lambda patient: table[patient])[: arguments.patients]
    left, right = (volumes(run, worst) for run in arguments.runs)
    pictures = []
    for patient in worst:
        _, predicted, true = right[patient]
        where = int((predicted != true).sum((1, 2)).argmax())
        for run, of in zip(arguments.runs, (left, right), strict=True):
            name = run.name.partition("-")[0]
            pictures.append((f"{patient}  {name}  DSC {of[patient][0]:.3f}", outlines(of[patient], where)))
    Image.fromarray(sheet(pictures, columns=2)).save(arguments.out, optimize=True)
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
