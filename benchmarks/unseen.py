"""Differences over the patients of a confirmation that no table of a search has, from the tables of patients alone.

python -m benchmarks.unseen docs/recipe/confirm/patients.csv --of lgg:lgg_best --search docs/recipe/search/patients.csv

Of one training a fold the interval is the percentile bootstrap over patients, and there is no verdict; of several the
difference, its interval and its verdict are those of docs/statistics.md, and a patient counts once.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from segtrain.errors import RunError
from segtrain.report.statistics import compare
from segtrain.report.variance import Unit
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text
from segtrain.runtime.process import run_command, start_logging

Rows = Sequence[dict[str, str]]


def line(rows: Rows, parent: str, child: str, left_out: Sequence[str]) -> dict[str, Any]:
    """The difference child minus parent over the rows that have both, as a line of the table."""
    if not (rows := [row for row in rows if row[parent] and row[child]]):
        raise _nobody(parent, child, left_out)
    own, theirs = (np.array([float(row[name]) for row in rows]) for name in (child, parent))
    difference = own - theirs
    low, high = percentile_interval(difference)
    low_t, high_t = stats.ttest_1samp(difference, 0).confidence_interval()
    unequal = (own - theirs)[own != theirs]
    return {
        "parent": parent,
        "child": child,
        "n": len(difference),
        "parent_dsc": f"{theirs.mean():.4f}",
        "child_dsc": f"{own.mean():.4f}",
        "parent_median": f"{np.median(theirs):.4f}",
        "child_median": f"{np.median(own):.4f}",
        "difference": f"{difference.mean():+.4f}",
        "ci_low": f"{low:+.4f}",
        "ci_high": f"{high:+.4f}",
        "t_low": f"{low_t:+.4f}",
        "t_high": f"{high_t:+.4f}",
        "patients_better": int((own > theirs).sum()),
        "p_wilcoxon": f"{stats.wilcoxon(unequal).pvalue:.2g}",
        "left_out": " ".join(left_out),
    }


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile bootstrap, which the recipe's protocol fixed; docs/statistics.md says what it covers."""
    seeded = np.random.default_rng(0)
    bootstrap = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=seeded)
    return float(bootstrap.confidence_interval.low), float(bootstrap.confidence_interval.high)


def unseen(rows: Rows, searched: Sequence[str], parent: str, child: str) -> list[dict[str, Any]]:
    """A line over all patients, and one without those that the search had scored."""
    patients = {row["patient"] for row in rows}
    seen = sorted(patients & set(searched))
    rest = [row for row in rows if row["patient"] not in seen]
    one = line if len(patients) == len(rows) else verdict
    return [one(rows, parent, child, []), one(rest, parent, child, seen)]


def verdict(rows: Rows, parent: str, child: str, left_out: Sequence[str]) -> dict[str, Any]:
    """The difference over people and trainings, by docs/statistics.md. A training that failed is left out.

    The means are over the same patients as the difference: those that both have scored.
    """
    both = set.intersection(*({row["patient"] for row in rows if row[name]} for name in (parent, child)))
    if not both:
        raise _nobody(parent, child, left_out)
    scores: dict[str, dict[Unit, float]] = {
        name: {_unit(row): float(row[name]) for row in rows if row[name] and row["patient"] in both}
        for name in (parent, child)
    }
    theirs, own = compare(scores, parent)  # no patient has several ids
    difference = own.difference
    assert difference, "they have patients in common"
    return {
        "parent": parent,
        "child": child,
        "n": difference.summary.n,
        "trainings": own.mean.trainings,
        "parent_trainings": theirs.mean.trainings,
        "parent_dsc": f"{theirs.summary.mean:.4f}",
        "child_dsc": f"{own.summary.mean:.4f}",
        "parent_median": f"{theirs.summary.median:.4f}",
        "child_median": f"{own.summary.median:.4f}",
        "difference": f"{difference.summary.mean:+.4f}",
        "ci_low": f"{difference.summary.ci_low:+.4f}",
        "ci_high": f"{difference.summary.ci_high:+.4f}",
        "p": f"{difference.p_seeds:.2g}",
        "p_strict": f"{difference.p_strict:.2g}",
        "verdict": difference.verdict,
        "left_out": " ".join(left_out),
    }


def _nobody(parent: str, child: str, left_out: Sequence[str]) -> RunError:
    """The error of two recipes without a patient to compare them on."""
    whom = "that the search has not scored" if left_out else "in common"
    return RunError(f"--of {parent}:{child}: no patient {whom}; compare two that have some")


def _unit(row: dict[str, str]) -> Unit:
    """The patient, fold and seed of a row; a split without folds has an empty cell."""
    return row["patient"], int(row["fold"]) if row["fold"] else None, int(row["seed"])


def command(argv: Sequence[str]) -> int:
    """Print the lines, or write them."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.unseen", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patients", type=Path, help="the table of patients of a confirmation")
    parser.add_argument("--of", required=True, metavar="PARENT:CHILD", help="columns to compare")
    parser.add_argument("--search", type=Path, required=True, help="the table of patients of the search")
    parser.add_argument("--out", type=Path, help="where the lines go")
    arguments = parser.parse_args(list(argv))
    start_logging()
    parent, _, child = arguments.of.partition(":")
    rows, searched = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in (arguments.patients, arguments.search)
    )
    if missing := {parent, child} - rows[0].keys():
        raise RunError(f"--of {arguments.of}: {arguments.patients} has no column {sorted(missing)[0]}; name one it has")
    text = csv_text(unseen(rows, [row["patient"] for row in searched], parent, child))
    if arguments.out:
        files.write_text(arguments.out, text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
