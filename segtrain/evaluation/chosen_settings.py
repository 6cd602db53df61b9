"""The post-processing that runs have chosen, in place of what they are configured with, where it may be used."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from segtrain.config import POSTPROCESSING, EvaluateConfig, Postprocessing
from segtrain.errors import ConfigError, RunError
from segtrain.evaluation.ensemble import TrainedCheckpoint
from segtrain.evaluation.trained_on import people_of_patients
from segtrain.run import ChosenPostprocessing, read_postprocessing
from segtrain.run.manifest import weights_sha256

log = logging.getLogger(__name__)

Source = Literal["auto", "chosen", "configured"]
POSTPROCESSING_SOURCES: dict[Source, str] = {
    "auto": "as segtrain postprocess chose it for the fold of these checkpoints, where it did, else as configured",
    "chosen": "as chosen, also on all folds for an ensemble of several, or an error",
    "configured": "as in the runs' configs",
}
REMEDY = "run segtrain postprocess on the runs of all folds, or leave --postprocessing out"


@dataclass(frozen=True)
class Postprocessed:
    """Checkpoints with the post-processing to use them by; `chosen`: None where it is the configured one."""

    checkpoints: list[TrainedCheckpoint]
    chosen: ChosenPostprocessing | None = None


def with_postprocessing(
    checkpoints: Sequence[TrainedCheckpoint], source: Source, overrides: Sequence[str]
) -> Postprocessed:
    """The checkpoints with the chosen settings, or as they are; a log line says which.

    Settings of `overrides` are the user's word: nothing chosen is used beside them. Raises ConfigError, RunError.
    """
    as_they_are = Postprocessed(list(checkpoints))
    keys = [override.partition("=")[0].removeprefix("evaluate.") for override in overrides]
    overridden = [key for key in keys if key in POSTPROCESSING]
    if source == "chosen" and overridden:
        raise ConfigError(f"evaluate.{overridden[0]}: --postprocessing chosen sets it too; leave one of the two out")
    if source == "configured":
        return as_they_are
    if overridden:
        if any(one.run.postprocessing_settings.exists() for one in checkpoints):
            log.info("evaluate.%s is given, so post-processing is not as chosen by its run", overridden[0])
        return as_they_are
    chosen, problem = _choice_for(checkpoints)
    if chosen is None:
        if source == "chosen":
            raise RunError(f"{checkpoints[0].run.root}: {problem}; {REMEDY}")
        if any(one.run.postprocessing_settings.exists() for one in checkpoints):
            log.warning("post-processing as configured, not as chosen: %s", problem)
        return as_they_are
    if source == "auto" and len(chosen.folds_of_members) > 1:
        log.info(
            "post-processing as configured; --postprocessing chosen uses what single networks of all folds chose, "
            "which nobody is left to test in their ensemble"
        )
        return as_they_are
    if all(choice.settings == choice.configured for choice in chosen.regions.values()):
        log.info("post-processing as configured: segtrain postprocess found nothing better")
        return as_they_are
    log.info(
        "post-processing as chosen on %d patients of folds %s; %s",
        len(chosen.patients),
        ", ".join(map(str, chosen.folds)),
        "; ".join(_in_words(chosen)),
    )
    return Postprocessed([_with(one, chosen) for one in checkpoints], chosen)


def refuse_choosers(
    chosen: ChosenPostprocessing | None,
    patients: Collection[str],
    seen: Collection[str],
    checkpoints: Sequence[TrainedCheckpoint],
) -> None:
    """Raises RunError for patients who would score settings that they had a part in choosing.

    Those of `seen`, whom the networks were trained on, are marked or refused as such.
    """
    if chosen is None:
        return
    people = people_of_patients({*patients, *chosen.patients}, checkpoints)
    choosers = {people[patient] for patient in chosen.patients}
    if both := sorted(patient for patient in patients if patient not in seen and people[patient] in choosers):
        raise RunError(
            f"{len(both)} of the {len(patients)} patients ({both[0]}...) had a part in choosing the post-processing, "
            "so they cannot score it; use --postprocessing configured, or other patients"
        )


def _choice_for(checkpoints: Sequence[TrainedCheckpoint]) -> tuple[ChosenPostprocessing | None, str]:
    """The choice that these checkpoints may be used with; None with the reason.

    That of their fold where all are of one fold, else that of all folds.
    """
    if any(one.is_bare for one in checkpoints):
        return None, "a file of weights has none"
    problem = ""
    for whose in ("postprocessing_settings", "postprocessing_of_all_folds"):
        choices = [_read(one, whose) for one in checkpoints]
        first = choices[0]
        for one, choice in zip(checkpoints, choices, strict=True):
            if choice is None:
                return None, f"{one.run.root} has none"
        assert first is not None
        if any(choice != first for choice in choices):
            problem = "the runs of this ensemble did not choose it together"
            continue
        return (None, problem) if (problem := _problem(first, checkpoints)) else (first, "")
    return None, problem


def _read(checkpoint: TrainedCheckpoint, whose: str) -> ChosenPostprocessing | None:
    path: Path = getattr(checkpoint.run, whose)
    return read_postprocessing(path)


def _problem(chosen: ChosenPostprocessing, checkpoints: Sequence[TrainedCheckpoint]) -> str:
    """Why the choice does not hold for these checkpoints; "" where it does."""
    if len(chosen.folds_of_members) == 1 < len(chosen.members) != len(checkpoints):
        return (
            f"{checkpoints[0].run.root}: it was chosen for the ensemble of {len(chosen.members)} seeds; name these "
            "together, or give segtrain postprocess the runs of one seed"
        )
    members = {(member.checkpoint, member.weights_sha256): member for member in chosen.members}
    for one in checkpoints:
        if (one.folder.name, weights_sha256(one.folder)) not in members:
            with_these = ", ".join(sorted({member.checkpoint for member in chosen.members}))
            return (
                f"{one.run.root}: it was chosen with {with_these}, and this is {one.folder.name}: the run was trained "
                "on since then, or --checkpoint names another"
            )
        if one.cfg.evaluate.tta != chosen.tta:
            return f"{one.run.root}: it was chosen with evaluate.tta={chosen.tta}, not {one.cfg.evaluate.tta}"
        if set(one.cfg.data.layout.regions) != chosen.regions.keys():
            return f"{one.run.root}: it was chosen for other regions"
    return ""


def _with(checkpoint: TrainedCheckpoint, chosen: ChosenPostprocessing) -> TrainedCheckpoint:
    cfg = checkpoint.cfg
    by_region = {region: chosen.regions[region].settings for region in cfg.data.layout.regions}
    evaluate = with_settings(cfg.evaluate, by_region)
    return replace(checkpoint, cfg=replace(cfg, evaluate=evaluate), configured=cfg.evaluate)


def with_settings(cfg: EvaluateConfig, by_region: dict[str, Postprocessing]) -> EvaluateConfig:
    """The section with these settings, as overrides would have set them: of one region its values, else mappings."""
    values: dict[str, Any] = {}
    for key in POSTPROCESSING:
        of_regions = {region: getattr(settings, key) for region, settings in by_region.items()}
        values[key] = of_regions if len(of_regions) > 1 else next(iter(of_regions.values()))
    return replace(cfg, **values)


def _in_words(chosen: ChosenPostprocessing) -> list[str]:
    return [f"{region}: {in_words(choice.settings)}" for region, choice in chosen.regions.items()]


def in_words(settings: Postprocessing) -> str:
    """The settings in a few words: `above 0.4, from 0.1 ml, largest component`."""
    words = [f"above {settings.threshold:g}"]
    if settings.min_component_voxels > 1:
        words.append(f"from {settings.min_component_voxels} voxels")
    if settings.min_component_ml:
        words.append(f"from {settings.min_component_ml:g} ml")
    if settings.min_component_share and not settings.largest_component:
        words.append(f"from {100 * settings.min_component_share:g}% of the largest")
    return ", ".join([*words, "largest component" if settings.largest_component else "all components"])
