"""Post-processing chosen for each run of a k-fold ablation on the patients of the other folds, and for all together.

What a fold's run gets, no patient of the fold had a part in. The settings of all folds are for the ensemble of several,
which has no patients left that could score it. Their threshold stays as configured: the mean probability of several
networks is another scale than that of one, which is all that is known out of fold.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segtrain.config import Postprocessing
from segtrain.data.masks import is_known, regions_of
from segtrain.data.sources import first_few
from segtrain.data.store import Store
from segtrain.errors import RunError
from segtrain.evaluation.candidates import candidate_counts, candidates_around
from segtrain.evaluation.ensemble import TrainedCheckpoint
from segtrain.evaluation.out_of_fold import Fold, OutOfFold, folds_of, out_of_fold
from segtrain.evaluation.postprocessing import FEWEST_FOLDS, RULE, Scored, choose
from segtrain.evaluation.trained_on import people_of_patients
from segtrain.evaluation.units import prepared_voxel_ml, refuse_unknown_spacing, usable
from segtrain.run import ChosenPostprocessing, Effect, FoldMember
from segtrain.run.manifest import weights_sha256

log = logging.getLogger(__name__)

Candidates = Mapping[str, Sequence[Postprocessing]]  # by region


@dataclass(frozen=True)
class FoldChoice:
    """A fold with what its runs get, and the effect on its patients."""

    fold: Fold
    chosen: ChosenPostprocessing
    effects: Sequence[Effect]


def choose_by_fold(
    checkpoints: Sequence[TrainedCheckpoint], store: Store
) -> tuple[list[FoldChoice], ChosenPostprocessing]:
    """The choice of each fold, and that on all folds. Raises RunError: too few folds, or no folds of one split."""
    folds = folds_of(checkpoints)
    if len(folds) < FEWEST_FOLDS:
        raise RunError(
            f"{checkpoints[0].run.root}: runs of {len(folds)} folds cannot choose post-processing: one fold has no "
            f"part in it, and the others choose and test it; name runs of {FEWEST_FOLDS} folds or more"
        )
    candidates = _candidates(checkpoints[0], folds, store)
    scored: dict[str, list[Scored]] = {region: [] for region in candidates}
    for prediction in out_of_fold(checkpoints, store):
        for region, dsc in _dsc_of_candidates(prediction, candidates, checkpoints[0], store).items():
            scored[region].append(Scored(prediction.patient, prediction.fold, dsc))
    people = people_of_patients([one.patient for one in next(iter(scored.values()))], checkpoints)
    members = {fold.number: _members(fold) for fold in folds}

    def chosen(without: int | None) -> ChosenPostprocessing:
        """On the patients of all folds but this one."""
        part = {region: [one for one in of_all if one.fold != without] for region, of_all in scored.items()}
        grid = candidates
        if without is None:
            grid = {
                region: [one for one in grid[region] if one.threshold == grid[region][0].threshold] for region in grid
            }
            part = {region: _only(grid[region], candidates[region], part[region]) for region in grid}
        everyone = [member for fold in folds for member in members[fold.number]]
        return ChosenPostprocessing(
            members=tuple(everyone) if without is None else members[without],
            predictors=tuple(member for member in everyone if member.fold != without),
            patients=tuple(sorted(one.patient for one in next(iter(part.values())))),
            tta=checkpoints[0].cfg.evaluate.tta,
            candidates=max(map(len, grid.values())),
            rule=RULE,
            regions={region: choose(part[region], grid[region], people) for region in grid},
        )

    choices = []
    for fold in folds:
        own = chosen(fold.number)
        choices.append(FoldChoice(fold, own, _effects(fold, own, scored, candidates)))
    return choices, chosen(None)


def _only(few: Sequence[Postprocessing], many: Sequence[Postprocessing], scored: Sequence[Scored]) -> list[Scored]:
    """The scores of a few candidates alone."""
    places = [many.index(one) for one in few]
    return [replace(one, dsc=[one.dsc[place] for place in places]) for one in scored]


def _candidates(first: TrainedCheckpoint, folds: Sequence[Fold], store: Store) -> Candidates:
    """By region: sizes are in ml where the spacing of all patients is known, in prepared voxels else."""
    cfg, regions = first.cfg.evaluate, first.cfg.data.layout.regions
    patients = sorted(patient for fold in folds for patient in fold.patients)
    store.require(set(patients))
    spacings_mm = store.columns.spacings_of(patients)
    refuse_unknown_spacing(cfg, spacings_mm, regions)
    unknown = [patient for patient, spacing_mm in spacings_mm.items() if usable(spacing_mm) is None]
    if unknown:
        log.info(
            "sizes of components in voxels at %d px: the spacing of %d of %d patients (%s) is not known",
            store.size_px,
            len(unknown),
            len(patients),
            first_few(unknown),
        )
    return {region: candidates_around(cfg.of(region), in_ml=not unknown) for region in regions}


def _dsc_of_candidates(
    prediction: OutOfFold, candidates: Candidates, first: TrainedCheckpoint, store: Store
) -> dict[str, list[float]]:
    """The DSC of each candidate in one patient, by region."""
    layout, stored = first.cfg.data.layout, store.patients[prediction.patient]
    mask_shw = prediction.mask_shw
    known_shw = is_known(mask_shw) if layout.ignores else np.ones(mask_shw.shape, bool)
    voxel_ml = prepared_voxel_ml(stored.spacing_mm, stored.geometry)
    pairs = zip(prediction.probability_rshw, regions_of(mask_shw, layout), strict=True)
    return {
        region: [counts.dsc for counts in candidate_counts(probability, true, known_shw, of_region, voxel_ml)]
        for (region, of_region), (probability, true) in zip(candidates.items(), pairs, strict=True)
    }


def _members(fold: Fold) -> tuple[FoldMember, ...]:
    return tuple(
        FoldMember(one.run.root.resolve().name, fold.number, one.folder.name, weights_sha256(one.folder))
        for one in fold.checkpoints
    )


def _effects(
    fold: Fold, own: ChosenPostprocessing, scored: Mapping[str, Sequence[Scored]], candidates: Candidates
) -> list[Effect]:
    """The DSC of the fold's patients with what was chosen without them, and as configured."""
    effects = []
    for region, choice in own.regions.items():
        place = list(candidates[region]).index(choice.settings)
        effects += [
            Effect(one.patient, region, one.dsc[place], one.dsc[0]) for one in scored[region] if one.fold == fold.number
        ]
    return effects
