"""The command `segtrain evaluate`: scores of a checkpoint or an ensemble, patient by patient, and their means."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtrain.commands.arguments import add_choice, add_weights_config, runs_or_weights, runs_parser
from segtrain.config.json_text import json_in
from segtrain.data.prepare import ensure_store
from segtrain.data.store import Store
from segtrain.errors import ConfigError, DataError, RunError
from segtrain.evaluation.bare import with_assumed_patients
from segtrain.evaluation.calibration_summary import calibration_pictures
from segtrain.evaluation.chosen_settings import POSTPROCESSING_SOURCES, refuse_choosers, with_postprocessing
from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.evaluation.lesion_places import SORTS
from segtrain.evaluation.lesion_summary import lesion_rows, volumes_figure
from segtrain.evaluation.region_scores import (
    LESION_RULES,
    MASK_RULES,
    NO_LESIONS,
    SURFACE_RULES,
    GeometryName,
    Row,
    Rules,
)
from segtrain.evaluation.scores import Scores, score
from segtrain.evaluation.show import show
from segtrain.evaluation.summary import LESIONS, postprocessing_block, settings_of, summary_of
from segtrain.evaluation.trained_on import SAME_PIXELS, people_of_patients, renamed, trained_on
from segtrain.run import EvaluationFiles, foreign_file, read_evaluation, write_evaluation
from segtrain.runtime import cpus
from segtrain.runtime.launcher import refuse_ranks
from segtrain.runtime.process import start_logging

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain evaluate runs/lgg
  segtrain evaluate runs/lgg --checkpoint last evaluate.tta=flips --out scores-tta
  segtrain evaluate runs/a runs/b runs/c --out scores-ensemble
  segtrain evaluate runs/lgg --split all --include-training
  segtrain evaluate runs/lgg --postprocessing configured
  segtrain evaluate unet.pt data.root=/data/kaggle_3m --out scores-published

One process predicts, others score (--workers); evaluate.batch=64 is faster on a GPU. Distances are in mm and volumes in
ml where the spacing of all patients is known (hd95_mm, true_ml), in voxels else (hd95_px, true_voxels), in the geometry
that the column is of: prepared, or original_...

lesions.csv has a line for each lesion, found, missed or false; volumes.svg and .png plot predicted against true volume,
calibration.svg and .png the share of lesion against the predicted probability;
worst.png shows the worst lesion of each of the worst patients, by DSC or by that lesion (--sort).
docs/metrics.md defines every column.

Of several regions, the table has a row for each patient and region, and the summary the means of each region and over
them; evaluate.threshold='{whole: 0.5, core: 0.4}' sets one for each. Voxels that data.ignore names are in no count.
Means are over people: the scans of one person (data.groups) count once.

Where segtrain postprocess chose the run's settings, they are used, and dsc_as_configured and dsc_gain tell the DSC
without them; --postprocessing configured, or a setting such as evaluate.threshold=0.4, leaves them aside.

In place of a run a file of weights may stand, see segtrain predict --help; data.root=DIR names the patients. Which of
them it was trained on is not known. Of LGG data all but the ten validation patients of the reference program are taken
for that, unless --config or data.split says otherwise; of other data none.
"""
PATIENTS_A_WORKER = 32
SPLITS = ("validation", "train", "all")
GEOMETRIES: dict[str, tuple[GeometryName, ...]] = {
    "prepared": ("prepared",),
    "original": ("original",),
    "both": ("prepared", "original"),
}


def command(argv: Sequence[str]) -> int:
    """Score the requested patients, write the tables, show the means."""
    scored(argv)
    return 0


def scored(argv: Sequence[str]) -> Path:
    """The folder of the scores that the command line asks for."""
    arguments = parser().parse_intermixed_args(list(argv))
    start_logging()
    refuse_ranks()
    runs, overrides = runs_or_weights(arguments.words, arguments.weights_config)
    selected = select_checkpoints(runs, arguments.checkpoint, overrides, arguments.weights_config)
    postprocessed = with_postprocessing(selected, arguments.postprocessing, overrides)
    checkpoints = postprocessed.checkpoints
    folder = _folder(arguments, checkpoints)
    cfg = checkpoints[0].cfg
    checkpoints[0].say_own_source()
    store = ensure_store(cfg.data)
    checkpoints = with_assumed_patients(checkpoints, store, split_is_known=arguments.weights_config is not None)
    patients = _patients(arguments.split, checkpoints, store)
    pixels = store.pixels(patients)
    seen = trained_on(patients, checkpoints, pixels)
    for patient, name in renamed(pixels, checkpoints).items():
        log.warning("%s", SAME_PIXELS.format(patient=patient, name=name))
    if not arguments.include_training:
        _refuse_training_patients(patients, seen)
    refuse_choosers(postprocessed.chosen, patients, seen, checkpoints)
    geometries = GEOMETRIES[arguments.geometry]
    rules = Rules(geometries, arguments.empty_masks, arguments.empty_surfaces, arguments.lesions)
    workers = _workers(arguments.workers, len(patients))
    _refuse_other_scores(folder, patients, checkpoints, rules, is_own=arguments.out is None)
    scores = score(checkpoints, store, patients, rules, workers, arguments.sort)
    summary = summary_of(scores, checkpoints, store, rules) | postprocessing_block(postprocessed.chosen)
    write_evaluation(folder, _files(scores, summary, checkpoints, rules))
    show(summary)
    log.info("scores: %s", folder.resolve())
    return folder


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = runs_parser("segtrain evaluate", "Score trained networks on whole patients.", EXAMPLES)
    add_weights_config(parser)
    add = parser.add_argument
    add(
        "--split",
        default="validation",
        metavar="validation|train|all|FILE",
        help="the patients to score; FILE: a JSON list, or the validation side of a split.json",
    )
    add("--include-training", action="store_true", help="also patients that the run trained on, marked")
    add("--out", type=Path, metavar="DIR", help="default: RUN/evaluation/<split>-<checkpoint>[-postprocessed]")
    add(
        "--geometry",
        choices=GEOMETRIES,
        default="both",
        help="score the slices as the network sees them, as they lie in the source, or both (default)",
    )
    add_choice(parser, "--empty-masks", MASK_RULES)
    add_choice(parser, "--empty-surfaces", SURFACE_RULES)
    add_choice(parser, "--lesions", LESION_RULES)
    add_choice(parser, "--postprocessing", POSTPROCESSING_SOURCES)
    add_choice(parser, "--sort", SORTS)
    add(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that score (default: one for every {PATIENTS_A_WORKER} patients, at most the usable CPUs)",
    )
    return parser


def _workers(requested: int | None, patients: int) -> int:
    """A process takes as long to start as twenty patients to score, so it pays off with many."""
    if requested is not None and requested < 1:
        raise ConfigError(f"--workers {requested}: not a number of processes; give 1 or more")
    return requested or max(1, min(cpus.usable(), patients // PATIENTS_A_WORKER))


def _folder(arguments: argparse.Namespace, checkpoints: Sequence[TrainedCheckpoint]) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    if len(checkpoints) > 1:
        raise ConfigError(f"an ensemble of {len(checkpoints)} runs has no folder of its own; name one with --out DIR")
    if checkpoints[0].is_bare:
        raise ConfigError(f"{checkpoints[0].folder}: a file has no folder for scores; name one with --out DIR")
    split = Path(arguments.split).stem
    if split in SPLITS and arguments.split not in SPLITS:
        split += "-file"  # a file of that name
    postprocessed = checkpoints[0].configured is not None
    return checkpoints[0].run.evaluation(split, arguments.checkpoint, postprocessed)


def _patients(split: str, checkpoints: Sequence[TrainedCheckpoint], store: Store) -> list[str]:
    """Sorted. Raises ConfigError: runs with different splits; DataError: none, or one that is not in the store."""
    if split == "all":
        patients = set(store.patients)
    elif split in SPLITS:
        sides = [one.train if split == "train" else one.validation for one in checkpoints]
        if len(set(sides)) > 1:
            raise ConfigError(
                f"the runs do not have the same {split} patients; use --split all, or a FILE that lists patients"
            )
        patients = set(sides[0])
    else:
        patients = _from_file(Path(split))
    store.require(patients)
    if not patients:
        raise DataError(f"{split}: lists no patient; list at least one")
    return sorted(patients)


def _from_file(path: Path) -> set[str]:
    try:
        tree = json_in(path)
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
    folder: Path,
    patients: Sequence[str],
    checkpoints: Sequence[TrainedCheckpoint],
    rules: Rules,
    is_own: bool,
) -> None:
    """Raises RunError where `folder` has scores that this evaluation would not make again, or others' files.

    `is_own`: the run's folder for this checkpoint, where those of an earlier one are brought up to date.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--out {folder}: is a file; name a folder")
    if foreign := foreign_file(folder):
        raise RunError(f"{foreign}: was not written by segtrain evaluate; name another folder with --out")
    try:
        difference = _difference(*read_evaluation(folder), patients, checkpoints, rules, is_own)
    except (OSError, ValueError, KeyError, TypeError):
        return  # no scores that could be lost
    if difference:
        raise RunError(f"{folder}: holds other scores ({difference}); name another folder with --out")


def _difference(
    rows: Sequence[Mapping[str, str]],
    summary: Mapping[str, Any],
    patients: Sequence[str],
    checkpoints: Sequence[TrainedCheckpoint],
    rules: Rules,
    is_own: bool,
) -> str:
    """What scores that are there are of and these would not be; empty where these have all of them."""
    settings = settings_of(checkpoints[0].cfg, rules)
    # Of an earlier version: no scores of lesions could be lost.
    settings_before = {key: summary[key] if key != LESIONS else summary.get(key, settings[key]) for key in settings}
    settings_before["settings"] = {key: summary["settings"][key] for key in settings["settings"]}
    before = {row["patient"] for row in rows}
    runs, of_runs = ([one[key] for one in summary["runs"]] for key in ("run", "checkpoint"))
    geometries = list(summary["geometries"])
    if runs != [str(one.run.root.resolve()) for one in checkpoints]:
        return f"runs: {', '.join(runs)}"
    if not is_own and of_runs != [one.folder.name for one in checkpoints]:
        return f"checkpoints: {', '.join(of_runs)}"
    if before != set(patients):
        return f"{len(before)} patients, {len(before & set(patients))} of these {len(patients)}"
    if not set(geometries) <= set(rules.geometries):
        return f"geometries: {', '.join(geometries)}"
    if summary["image_size"] != checkpoints[0].cfg.data.image_size:
        return f"image_size: {summary['image_size']}"
    differing = [key for key in settings if settings_before[key] != settings[key]]
    return f"{differing[0]}: {settings_before[differing[0]]}" if differing else ""


def _refuse_training_patients(patients: Sequence[str], seen: frozenset[str]) -> None:
    """Raises RunError for patients that were trained on (L1)."""
    both = [patient for patient in patients if patient in seen]
    if both:
        raise RunError(
            f"{len(both)} of the {len(patients)} patients were trained on ({both[0]}...), so their scores say nothing "
            "about new ones; use --split validation, or --split all --include-training, which marks them"
        )


def _files(
    scores: Scores, summary: Mapping[str, Any], checkpoints: Sequence[TrainedCheckpoint], rules: Rules
) -> EvaluationFiles:
    people = people_of_patients({row["patient"] for row in scores.rows}, checkpoints)
    columns, lesions = lesion_rows(scores)
    figure = volumes_figure(scores, rules.geometries[-1], people)  # the original geometry, where it was scored
    diagram = calibration_pictures(scores, people)
    return EvaluationFiles(
        rows=[_cells(row) for row in scores.rows],
        summary=summary,
        lesions=None if rules.lesions == NO_LESIONS else (columns, [_cells(row) for row in lesions]),
        volumes=(str(figure[0].svg), figure[1]) if figure else None,
        calibration=(str(diagram[0].svg), diagram[1]) if diagram else None,
        worst=scores.worst,
    )


def _cells(row: Row) -> Row:
    return {key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()}
