"""A real A/A: finished runs of one recipe, parted into A and B in many ways, and how often a verdict is given.

python -m benchmarks.partitions runs/aa

The runs differ in fold and seed alone, so every verdict is a false one. The partitions share their trainings: their
share of verdicts scatters more than that of as many independent comparisons.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.estimators import p_values
from benchmarks.statistics import TESTS
from benchmarks.worlds import Array, Design
from segtrain.errors import RunError
from segtrain.report.collect import collect
from segtrain.report.variants import by_variant, scores
from segtrain.report.verdicts import ALPHA
from segtrain.runtime.process import run_command

MOST = 2000  # partitions, drawn by lot where there are more


def of_runs(paths: Sequence[Path]) -> list[Array]:
    """The DSC of each fold [patient, seed] at the last epoch, of the seeds that all folds have."""
    _, groups = by_variant(collect(paths), None)
    if len(groups) != 1:
        raise RunError(f"{paths[0]}: has {len(groups)} variants; name the runs of one recipe")
    dsc = scores(next(iter(groups.values())))
    folds = sorted({fold for _, fold, _ in dsc}, key=str)
    seeds = sorted(set.intersection(*({seed for _, f, seed in dsc if f == fold} for fold in folds)), key=str)
    patients = [sorted({patient for patient, f, _ in dsc if f == fold}) for fold in folds]
    least = min(map(len, patients))  # folds of equal size, as the estimators have them
    return [
        np.array([[dsc[patient, fold, seed] for seed in seeds] for patient in of_fold[:least]])
        for fold, of_fold in zip(folds, patients, strict=True)
    ]


def parted(folds: Sequence[Array], seeds: int, generator: np.random.Generator, whole: bool) -> tuple[Array, Array]:
    """Partitions [d, n, s] of so many seeds to A and as many others to B, of each fold or `whole`, the same in all."""
    sides: tuple[list[Array], list[Array]] = ([], [])
    order = np.empty(0)
    for of_fold in folds:
        if not whole or not order.size:
            order = generator.permuted(np.tile(np.arange(of_fold.shape[1]), (MOST, 1)), axis=1)
        for side, chosen in zip(sides, (order[:, :seeds], order[:, seeds : 2 * seeds]), strict=True):
            side.append(of_fold[:, chosen].transpose(1, 0, 2))
    own, other = (np.concatenate(side, axis=1) for side in sides)
    return own, other


def command(argv: Sequence[str]) -> int:
    """Print the runs' spread and, of each design that they allow, the share of verdicts."""
    folds = of_runs([Path(name) for name in argv])
    k, (n, runs) = len(folds), folds[0].shape
    means = np.array([of_fold.mean(axis=0) for of_fold in folds])
    spread = float(np.sqrt(means.var(axis=1, ddof=1).mean()))
    print(f"{k} folds of {n} patients, {runs} seeds: mean DSC {means.mean():.3f}, sd between trainings {spread:.4f}\n")
    print(f"| A and B | {' | '.join(TESTS)} |\n| --- {'| --- ' * len(TESTS)}|")
    generator = np.random.default_rng(0)
    numbers = range(1, runs // 2 + 1)
    designs = [(True, seeds, [folds]) for seeds in numbers] + [(False, seeds, [folds]) for seeds in numbers]
    designs += [(True, seeds, [[of_fold] for of_fold in folds]) for seeds in numbers]
    for whole, seeds, parts in designs:
        shares: dict[str, list[float]] = {}
        for part in parts:
            own, other = parted(part, seeds, generator, whole)
            same = np.abs(own.mean(axis=2) - other.mean(axis=2)).max(axis=1) == 0
            design = Design(own.shape[1], len(part), seeds, own_seeds=not whole)
            for name, p in p_values(own[~same], other[~same], design).items():
                shares.setdefault(name, []).append(float((p <= ALPHA).mean()))
        cells = [f"{100 * np.mean(shares[name]):.1f}%" if name in shares else "none given" for name in TESTS]
        how = "" if len(parts[0]) == 1 else ", the same seeds in all folds" if whole else ", any seeds of each fold"
        print(f"| {len(parts[0])} x {seeds}{how} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
