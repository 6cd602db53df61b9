"""The tables behind docs/recipe.md, from finished runs: differences patient by patient, time to quality, cost.

patients.csv has each patient's DSC at the last epoch, patients_late.csv its mean over the last three.

python -m benchmarks.recipe runs/recipe_search --of reference:cosine cosine:ema ema:strong --out docs/recipe/search
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from segtrain.errors import RunError
from segtrain.report.collect import Collected, collect
from segtrain.report.epochs import evaluation
from segtrain.report.statistics import mean_of, per_patient
from segtrain.report.variance import Scores, Unit
from segtrain.report.variants import Which, by_variant, scores
from segtrain.report.verdicts import Difference, corrected, difference
from segtrain.run.events import evaluations
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text
from segtrain.runtime.process import run_command, start_logging

QUALITIES = (0.70, 0.75, 0.80, 0.85)
LATE = 3  # epochs, over whose mean a schedule that ends at rest has no advantage of the last one's luck
Groups = Mapping[str, Sequence[Collected]]


def differences(groups: Groups, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """A line per pair (parent, child) and epoch (last, best): both means, child minus parent, p, p after Holm, verdict.

    All are over the people that both have scored, whatever the seeds (docs/statistics.md). p_holm is empty where no
    verdict can be given.
    """
    lines = []
    for which in ("last", "best"):
        of_pairs = [_compared(groups, parent, child, which) for parent, child in pairs]
        verdicts = corrected([of_pair for *_, of_pair in of_pairs])
        for (parent, child), (theirs, own, _), of_pair in zip(pairs, of_pairs, verdicts, strict=True):
            of_parent, of_child = per_patient(theirs), per_patient(own)
            people = groups[parent][0].people
            of = {"parent": mean_of(theirs, people).summary, "child": mean_of(own, people).summary}
            lines.append(
                {
                    "parent": parent, "child": child, "epoch": which, "n": of_pair.summary.n,
                    "parent_dsc": f"{of['parent'].mean:.4f}", "child_dsc": f"{of['child'].mean:.4f}",
                    "parent_median": f"{of['parent'].median:.4f}", "child_median": f"{of['child'].median:.4f}",
                    "difference": f"{of_pair.summary.mean:+.4f}", "ci_low": f"{of_pair.summary.ci_low:+.4f}",
                    "ci_high": f"{of_pair.summary.ci_high:+.4f}",
                    "patients_better": sum(of_child[patient] > of_parent[patient] for patient in of_child),
                    "p": f"{of_pair.p:.2g}", "p_holm": f"{of_pair.p_holm:.2g}" if of_pair.decidable else "",
                    "verdict": of_pair.verdict,
                }
            )  # fmt: skip
    return lines


def _compared(groups: Groups, parent: str, child: str, which: Which) -> tuple[Scores, Scores, Difference]:
    """The scores of the patients that both have, and the difference child minus parent. Raises RunError: none."""
    theirs, own = scores(groups[parent], which), scores(groups[child], which)
    common = {patient for patient, *_ in theirs} & {patient for patient, *_ in own}
    theirs, own = ({unit: dsc for unit, dsc in of.items() if unit[0] in common} for of in (theirs, own))
    of_pair = difference(own, theirs, groups[parent][0].people)
    if of_pair is None:
        raise RunError(f"--of {parent}:{child}: no patient in common; train both on one fold")
    return theirs, own, of_pair


def quality(groups: Groups) -> list[dict[str, Any]]:
    """A line per run and DSC: the first epoch whose mean validation DSC reached it, in epochs, steps and images."""
    lines = []
    for variant, runs in groups.items():
        for run in runs:
            assert run.config is not None, "a collected run has a config"
            scores = evaluations(run.run.events())
            for wanted in QUALITIES:
                first = next((event for event in scores if event.val_dsc >= wanted), None)
                reached = {key: getattr(first, key, "not reached") for key in ("epoch", "step")}
                images = first.step * run.config.train.global_batch if first else "not reached"
                lines.append(
                    {"variant": variant, "fold": run.fold, "seed": run.seed, "dsc": f"{wanted:.2f}", **reached}
                    | {"images": images}
                )
    return lines


def patients(dsc_of: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """A line per patient, fold and seed: its DSC of each variant."""
    units = sorted({unit for of in dsc_of.values() for unit in of}, key=str)
    return [
        {"patient": patient, "fold": fold, "seed": seed}
        | {variant: f"{of[unit]:.6f}" if unit in of else "" for variant, of in dsc_of.items()}
        for unit in units
        for patient, fold, seed in [unit]
    ]


def late_scores(runs: Sequence[Collected]) -> Scores:
    """Every patient's mean DSC over the last three evaluations of these runs of one variant."""
    by_unit: dict[Unit, float] = {}
    for run in runs:
        late = [evaluation(run.run, event, run.people).by_patient for event in evaluations(run.run.events())[-LATE:]]
        by_unit |= {(name, run.fold, run.seed): fmean(one[name] for one in late) for name in late[0]}
    return by_unit


def cost(groups: Groups) -> list[dict[str, Any]]:
    """A line per run: hours at work, images per second while training (median)."""
    return [
        {
            "variant": variant,
            "fold": run.fold,
            "seed": run.seed,
            "hours": f"{run.hours:.3f}",
            "images_per_s": f"{run.images_per_s:.1f}",
        }
        for variant, runs in groups.items()
        for run in runs
    ]


def command(argv: Sequence[str]) -> int:
    """Write the tables and print the differences."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--of", nargs="+", required=True, metavar="PARENT:CHILD", help="variants to compare")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables go")
    arguments = parser.parse_args(list(argv))
    start_logging()
    pairs = [(parent, child) for parent, _, child in (pair.partition(":") for pair in arguments.of)]
    _, groups = by_variant(collect(arguments.runs), None)
    if missing := sorted({name for pair in pairs for name in pair} - groups.keys()):
        raise RunError(f"--of {missing[0]}: no finished run of it; there are {', '.join(groups)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    of_pairs = differences(groups, pairs)
    tables = {
        "differences": of_pairs,
        "quality": quality(groups),
        "patients": patients({variant: scores(runs) for variant, runs in groups.items()}),
        "patients_late": patients({variant: late_scores(runs) for variant, runs in groups.items()}),
        "cost": cost(groups),
    }
    for name, lines in tables.items():
        files.write_text(arguments.out / f"{name}.csv", csv_text(lines))
    print(csv_text(of_pairs), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
