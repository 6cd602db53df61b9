"""The command `segtrain evaluate`: a checkpoint's, or an ensemble's, scores patient by patient, and their means."""

import argparse
import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtrain.commands.arguments import add_choice, runs_and_overrides, runs_parser
from segtrain.data.prepare import ensure_store
from segtrain.data.store import Store
from segtrain.errors import ConfigError, DataError, RunError
from segtrain.evaluation.ensemble import Chosen, choose
from segtrain.evaluation.scores import MASK_RULES, SURFACE_RULES, GeometryName, Row, Rules, score
from segtrain.evaluation.summary import how, show, summary_of
from segtrain.run import write_evaluation
from segtrain.runtime.process import start_logging

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain evaluate runs/lgg
  segtrain evaluate runs/lgg --checkpoint last evaluate.tta=flips --out scores-tta
  segtrain evaluate runs/a runs/b runs/c --out scores-ensemble
  segtrain evaluate runs/lgg --split all --include-training

One process predicts, others score (--workers); evaluate.batch=64 is faster on a GPU. Distances are in voxels of the
geometry that the column is of: prepared, or original_...
"""
PATIENTS_A_WORKER = 32
SPLITS = ("validation", "train", "all")
GEOMETRIES: dict[str, tuple[GeometryName, ...]] = {
    "prepared": ("prepared",), "original": ("original",), "both": ("prepared", "original"),
}  # fmt: skip


def command(argv: Sequence[str]) -> int:
    """Score the patients that are asked for, write the tables, show the means."""
    parser = _parser()
    arguments = parser.parse_intermixed_args(list(argv))
    start_logging()
    runs, overrides = runs_and_overrides(arguments.words)
    chosen = choose(runs, arguments.checkpoint, overrides)
    folder = _folder(arguments, chosen)
    store = ensure_store(chosen[0].cfg.data)
    patients = _patients(arguments.split, chosen, store)
    trained_on = frozenset[str]().union(*(one.train for one in chosen))
    _refuse_training(patients, trained_on, arguments.include_training)
    rules = Rules(GEOMETRIES[arguments.geometry], arguments.empty_masks, arguments.empty_surfaces)
    workers = _workers(arguments.workers, len(patients))
    _refuse_other_scores(folder, patients, chosen, how(chosen[0].cfg, rules))
    rows = score(chosen, store, patients, trained_on, rules, workers)
    summary = summary_of(rows, chosen, store, rules)
    write_evaluation(folder, [_cells(row) for row in rows], summary)
    show(summary)
    log.info("%s", folder.resolve())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = runs_parser("segtrain evaluate", "Score trained networks on whole patients.", EXAMPLES)
    add = parser.add_argument
    add("--split", default="validation", metavar="validation|train|all|FILE",
        help="whom to score; FILE: a JSON list, or the validation side of a split.json")  # fmt: skip
    add("--include-training", action="store_true", help="also patients that the run trained on, marked")
    add("--out", type=Path, metavar="DIR", help="default: RUN/evaluation/<split>-<checkpoint>")
    add("--geometry", choices=GEOMETRIES, default="both",
        help="score slices as the network sees them, as they lie in the source, or both (default)")  # fmt: skip
    add_choice(parser, "--empty-masks", MASK_RULES)
    add_choice(parser, "--empty-surfaces", SURFACE_RULES)
    add("--workers", type=int, metavar="N", help="processes that score (default: one for every "
        f"{PATIENTS_A_WORKER} patients, as far as there are cores)")  # fmt: skip
    return parser


def _workers(asked: int | None, patients: int) -> int:
    """A process pays when it scores many patients: it needs seconds to start."""
    if asked is not None and asked < 1:
        raise ConfigError(f"--workers {asked}: not a number of processes; give 1 or more")
    return asked or max(1, min(len(os.sched_getaffinity(0)), patients // PATIENTS_A_WORKER))


def _folder(arguments: argparse.Namespace, chosen: Sequence[Chosen]) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    if len(chosen) > 1:
        raise ConfigError(f"an ensemble of {len(chosen)} runs belongs to none of them; say where with --out DIR")
    split = Path(arguments.split).stem
    if split in SPLITS and arguments.split not in SPLITS:
        split += "-file"  # of a file's patients, whatever it is called
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


def _refuse_other_scores(
    folder: Path, patients: Sequence[str], chosen: Sequence[Chosen], asked: Mapping[str, Any]
) -> None:
    """Scores are replaced by the same scores anew; never by those of others, or by those of another way."""
    try:
        with (folder / "scores.csv").open(newline="") as file:
            there = {row["patient"] for row in csv.DictReader(file)}
        summary = json.loads((folder / "summary.json").read_text())
        before = {key: summary[key] for key in asked}
        before["settings"] = {key: summary["settings"][key] for key in asked["settings"]}
        runs = [one["run"] for one in summary["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return  # none that could be lost
    other = [f"{key}: {before[key]}" for key in asked if before[key] != asked[key]]
    if there != set(patients):
        other = [f"{len(there)} patients, {len(there & set(patients))} of these {len(patients)}"]
    if runs != [str(one.run.root.resolve()) for one in chosen]:
        other = [f"runs: {', '.join(runs)}"]
    if other:
        raise RunError(f"{folder}: holds other scores ({other[0]}); name another folder with --out, or remove it")


def _refuse_training(patients: Sequence[str], trained_on: frozenset[str], included: bool) -> None:
    """L1."""
    seen = [patient for patient in patients if patient in trained_on]
    if seen and not included:
        raise RunError(
            f"{len(seen)} of the {len(patients)} patients are those it trained on ({seen[0]}...), so their scores say "
            "nothing about new ones; use --split validation, or --split all --include-training, which marks them"
        )


def _cells(row: Row) -> Row:
    return {key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()}
