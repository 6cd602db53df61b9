"""The command `segtrain evaluate`: a checkpoint's, or an ensemble's, scores patient by patient, and their means."""

import argparse
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.cli import runs_and_overrides, runs_parser, start_logging
from segtrain.data.prepare import ensure_store
from segtrain.data.store import Store
from segtrain.display import Progress, show_table
from segtrain.errors import ConfigError, DataError, LaunchError, RunError
from segtrain.metrics import EMPTY_RULE, Summary, count, summarise
from segtrain.run import write_evaluation
from segtrain.surface import EMPTY, SOURCE, surface_scores
from segtrain.trained import Chosen, choose, ensemble_logits

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain evaluate runs/lgg
  segtrain evaluate runs/lgg --checkpoint last evaluate.tta=flips --out scores-tta
  segtrain evaluate runs/a runs/b runs/c --out scores-ensemble
  segtrain evaluate runs/lgg --split all --include-training

One process: scoring takes seconds to minutes; evaluate.batch=64 is faster on a GPU. Distances are in voxels.
"""
METRICS = (
    "dsc", "dsc_all_components", "iou", "sensitivity", "precision", "hd95_px", "assd_px", "nsd_1px", "nsd_2px",
)  # fmt: skip
TERTILES = ("small", "medium", "large")
Row = dict[str, Any]


def command(argv: Sequence[str]) -> int:
    """Score the patients that are asked for, write the tables, show the means."""
    parser = runs_parser("segtrain evaluate", "Score trained networks on whole patients.", EXAMPLES)
    parser.add_argument("--split", default="validation", metavar="validation|train|all|FILE",
                        help="whom to score; FILE: a JSON list, or the validation side of a split.json")  # fmt: skip
    parser.add_argument("--include-training", action="store_true", help="also patients that the run trained on, marked")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/evaluation/<split>-<checkpoint>")
    arguments = parser.parse_intermixed_args(list(argv))
    start_logging()
    runs, overrides = runs_and_overrides(arguments.words)
    chosen = choose(runs, arguments.checkpoint, overrides)
    folder = _folder(arguments, chosen)
    store = ensure_store(chosen[0].cfg.data)
    patients = _patients(arguments.split, chosen, store)
    trained_on = frozenset[str]().union(*(one.train for one in chosen))
    _refuse_training(patients, trained_on, arguments.include_training)
    rows = score(chosen, store, patients, trained_on)
    summary = summary_of(rows, chosen, store)
    write_evaluation(folder, [_cells(row) for row in rows], summary)
    _show(summary)
    log.info("%s", folder.resolve())
    return 0


def _folder(arguments: argparse.Namespace, chosen: Sequence[Chosen]) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    if len(chosen) > 1:
        raise ConfigError(f"an ensemble of {len(chosen)} runs belongs to none of them; say where with --out DIR")
    split = arguments.split if arguments.split in ("validation", "train", "all") else Path(arguments.split).stem
    checkpoint = f"step-{arguments.checkpoint}" if arguments.checkpoint.isdecimal() else arguments.checkpoint
    return chosen[0].run.evaluation(split, checkpoint)


def _patients(split: str, chosen: Sequence[Chosen], store: Store) -> list[str]:
    """Sorted. Raises DataError: a patient that the data does not hold, or none."""
    match split:
        case "all":
            wanted = set(store.patients)
        case "train" | "validation":
            sides = [one.train if split == "train" else one.validation for one in chosen]
            if len(set(sides)) > 1:
                raise ConfigError(
                    f"the runs have other {split} patients each; use --split all, or a FILE that names some"
                )
            wanted = set(sides[0])
        case _:
            wanted = _from_file(Path(split))
    if strangers := sorted(wanted - store.patients.keys()):
        raise DataError(
            f"patient {strangers[0]} ({len(strangers)} such) is not in {store.label}; set data.root to the data that "
            "holds them"
        )
    if not wanted:
        raise DataError(f"{split}: names no patient; list at least one")
    return sorted(wanted)


def _from_file(path: Path) -> set[str]:
    try:
        tree = json.loads(path.read_text())
        names = tree["validation"] if isinstance(tree, dict) else tree
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("not a list of names")
        return set(names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--split {path}: neither validation, train nor all, nor a readable file of patients ({error}); "
            'write ["A", "B"]'
        ) from error


def _refuse_training(patients: Sequence[str], trained_on: frozenset[str], included: bool) -> None:
    """L1."""
    seen = [patient for patient in patients if patient in trained_on]
    if seen and not included:
        raise RunError(
            f"{len(seen)} of the {len(patients)} patients are those it trained on ({seen[0]}...), so their scores say "
            "nothing about new ones; use --split validation, or --split all --include-training, which marks them"
        )


def score(chosen: Sequence[Chosen], store: Store, patients: Sequence[str], trained_on: frozenset[str]) -> list[Row]:
    """A row a patient, from the code that scores in training."""
    from segtrain.dist import join  # imports torch: seconds
    from segtrain.evaluate import score_patient
    from segtrain.losses import make_loss

    cfg = chosen[0].cfg
    rows = []
    with join(cfg.device, cfg.threads_per_rank) as world:
        if world.size > 1:
            raise LaunchError(f"{world.size} processes, but segtrain evaluate is one; start it without torchrun")
        logits, loss = ensemble_logits(chosen, world.device), make_loss("dice")  # the loss is not shown
        total = sum(store.patients[p].slices for p in patients)
        with Progress("evaluate", total=total, unit="slices") as bar:
            for patient in patients:
                found, predicted_shw, true_shw = score_patient(
                    logits, loss, store, patient, world.device, cfg.evaluate, False, cfg.data.neighbours
                )
                bar.advance(found.slices, patient=patient)
                c = found.scored
                rows.append({
                    "patient": patient, "slices": found.slices, "voxels": c.tp + c.fn,
                    "tp": c.tp, "fp": c.fp, "fn": c.fn,
                    "dsc": c.dsc, "dsc_all_components": found.all_components.dsc, **_ratios(c.tp, c.fp, c.fn),
                    **surface_scores(predicted_shw, true_shw),
                    "false_positive_slices": int((predicted_shw.any((1, 2)) & ~true_shw.any((1, 2))).sum()),
                    "institution": store.patients[patient].institution,
                    "trained_on": "yes" if patient in trained_on else "no",
                })  # fmt: skip
                assert c == count(predicted_shw, true_shw), "the volumes are those that were scored"
    return rows


def _ratios(tp: int, fp: int, fn: int) -> dict[str, float | None]:
    """None where there is nothing to be a part of; IoU follows EMPTY_RULE."""
    return {
        "iou": tp / (tp + fp + fn) if tp + fp + fn else 1.0,
        "sensitivity": tp / (tp + fn) if tp + fn else None,
        "precision": tp / (tp + fp) if tp + fp else None,
    }


def _cells(row: Row) -> Row:
    return {key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()}


def summary_of(rows: Sequence[Row], chosen: Sequence[Chosen], store: Store) -> dict[str, Any]:
    """What belongs beside the means (L10); patients that were trained on are told apart, and in no stratum."""
    unseen = [row for row in rows if row["trained_on"] == "no"]
    seen = [row for row in rows if row["trained_on"] == "yes"]
    cfg = chosen[0].cfg
    return {
        "data": store.label,
        "image_size": cfg.data.image_size,
        "runs": [{"run": str(one.run.root.resolve()), "checkpoint": one.folder.name} for one in chosen],
        "settings": {k: v for k, v in asdict(cfg.evaluate).items() if k not in ("every_epochs", "pictures")},
        "empty_masks": EMPTY_RULE,
        "empty_surfaces": EMPTY,
        "surface_distances": f"{SOURCE}, whole volumes, in voxels of the prepared geometry",
        "not_trained_on": {name: _summary(unseen, name) for name in METRICS},
        "trained_on": {name: _summary(seen, name) for name in METRICS} if seen else None,
        "dsc_by": {f"{what} {value}": _summary(part, "dsc") for what, value, part in _strata(unseen)},
    }  # fmt: skip


def _summary(rows: Sequence[Row], name: str) -> dict[str, float | int | None]:
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return {"n": 0}
    found: Summary = summarise(values)
    low, high = np.percentile(values, (25, 75))
    ends = {"ci_low": found.ci_low, "ci_high": found.ci_high}
    return {
        "n": found.n, "mean": found.mean, **{k: v if math.isfinite(v) else None for k, v in ends.items()},
        "median": found.median, "quartile_1": float(low), "quartile_3": float(high),
    }  # fmt: skip


def _strata(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """By institution, and by third of the patients, from three on, in order of lesion volume."""
    for institution in sorted({row["institution"] for row in rows}):
        yield "institution", institution, [row for row in rows if row["institution"] == institution]
    if len(rows) < len(TERTILES):
        return
    by_volume = sorted(rows, key=lambda row: (row["voxels"], row["patient"]))
    for name, part in zip(TERTILES, np.array_split(np.arange(len(rows)), 3), strict=True):
        yield "lesion", name, [by_volume[i] for i in part]


def _show(summary: dict[str, Any]) -> None:
    header = ("", "n", "mean", "95% CI", "median", "quartiles")
    what = f"{summary['data']}, {', '.join(run['checkpoint'] for run in summary['runs'])}"
    if summary["not_trained_on"]["dsc"]["n"]:
        show_table(f"Scores: {what}", [_line(*item) for item in summary["not_trained_on"].items()], header)
        show_table(
            "DSC by institution and by lesion volume", [_line(*item) for item in summary["dsc_by"].items()], header
        )
    if summary["trained_on"]:
        show_table(f"Trained on, so no measure of new patients: {what}",
                   [_line(*item) for item in summary["trained_on"].items()], header)  # fmt: skip
    for key in ("empty_masks", "empty_surfaces", "surface_distances"):
        log.info("%s: %s", key.replace("_", " "), summary[key])


def _line(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    if not found["n"]:
        return name, "0", "", "", "", ""
    interval = "" if found["ci_low"] is None else f"{found['ci_low']:#.3g} to {found['ci_high']:#.3g}"
    quartiles = f"{found['quartile_1']:#.3g} to {found['quartile_3']:#.3g}"
    return name, str(found["n"]), f"{found['mean']:.4f}", interval, f"{found['median']:.4f}", quartiles
