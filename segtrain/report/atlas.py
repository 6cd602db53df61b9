"""The atlas of a run: every validation patient, slice by slice, segmented by the checkpoint behind its scores.

The code that scores during training predicts it again, so that pictures and numbers belong to one volume. Imports torch
only when an atlas is made. Legend: s slice, h height, w width.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segtrain.data.prepare import ensure_store
from segtrain.data.sources import FLAIR
from segtrain.data.store import Store
from segtrain.errors import RunError, SegtrainError
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened, select_checkpoints
from segtrain.report.collect import Collected
from segtrain.report.sprites import Sprites, sprites
from segtrain.report.statistics import Row
from segtrain.runtime.terminal import Progress

if TYPE_CHECKING:
    from segtrain.evaluation.evaluate import PatientScore

log = logging.getLogger(__name__)

ATLAS_MB = 10  # of the page, as base64, for all atlases of a report together
SETTINGS = ("threshold", "tta", "largest_component", "min_component_voxels")  # of `evaluate`, shown with an atlas


@dataclass(frozen=True)
class Slice:
    """A slice's number in the source, and its counts of voxels."""

    number: int
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class Card:
    """A patient: its row in the table of scores, its slices, its pictures."""

    patient: str
    row: Mapping[str, str]
    slices: Sequence[Slice]
    pictures: Sprites

    @property
    def dsc(self) -> float:
        return float(self.row["dsc"])

    @property
    def counts(self) -> list[tuple[int, int, int, int]]:
        """Each slice's number, true positives, false positives and false negatives, for the page."""
        return [(each.number, each.tp, each.fp, each.fn) for each in self.slices]

    @property
    def worst(self) -> int:
        """The place of the slice with the most wrong voxels, or with the most correct ones if none is wrong."""
        return max(range(len(self.slices)), key=lambda place: _wrong_then_correct(self.slices[place]))


@dataclass(frozen=True)
class Atlas:
    """A run's patients, worst first; or the reason why there is no atlas."""

    run: str
    reason: str = ""
    epoch: int = 0
    checkpoint: str = ""
    sha256: str = ""  # of the weights, as in the checkpoint's manifest
    settings: str = ""
    cards: Sequence[Card] = ()
    left_out: int = 0  # patients for whom the page had no room
    differ: Sequence[str] = ()  # patients whose scores are not exactly those of the run's table

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return sum(card.pictures.size for card in self.cards)


def atlases(runs: Sequence[Collected], overrides: Sequence[str] = ()) -> list[Atlas]:
    """An atlas of each run's last epoch. One that cannot be made has the reason, which is logged too."""
    results = []
    room = int(ATLAS_MB * 1e6 / max(1, len(runs)))
    for run in runs:
        try:
            results.append(_atlas(run, overrides, room))
        except SegtrainError as error:
            log.warning("no atlas of %s: %s", run.name, error)
            results.append(Atlas(run.name, str(error)))
    return results


def _atlas(run: Collected, overrides: Sequence[str], room: int) -> Atlas:
    """The atlas of as many of the worst patients as there is room for (bytes). Raises SegtrainError."""
    if run.last is None:
        raise RunError(f"{run.run.root}: nothing was evaluated yet")
    checkpoint = select_checkpoints([run.run.root], str(run.last.step), overrides)[0]
    if part := checkpoint.own_network:
        raise RunError(
            f"{run.run.root}: its network {part.short} is code of the user's own, which a report does not run; "
            f"segtrain predict {run.run.root} --images DIR draws it"
        )
    rows = {row["patient"]: row for row in run.last.rows}
    if seen := sorted(checkpoint.train & rows.keys()):
        raise RunError(f"{run.run.root}: patient {seen[0]} is on both sides of its split; none of its scores is valid")
    cards: list[Card] = []
    left = room
    worst_first = sorted(rows, key=lambda patient: (float(rows[patient]["dsc"]), patient))
    for card in _cards(checkpoint, worst_first, run.name):
        left -= card.pictures.size
        if left < 0:
            break
        cards.append(card)
    if not cards:
        raise RunError(f"no room for a patient in {room / 1e6:g} MB of the page; name fewer runs with --atlas")
    from segtrain.run.checkpoint import weights_sha256  # imports torch: seconds

    evaluation = asdict(checkpoint.cfg.evaluate)
    return Atlas(
        run=run.name,
        epoch=run.last.epoch,
        checkpoint=checkpoint.folder.name,
        sha256=weights_sha256(checkpoint.folder),
        settings=" ".join(f"{key}={evaluation[key]}" for key in SETTINGS),
        cards=sorted(cards, key=lambda card: (card.dsc, card.patient)),
        left_out=len(rows) - len(cards),
        differ=[card.patient for card in cards if not _agrees(card.row, rows[card.patient])],
    )


def _agrees(ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether the run's table has the same values in all columns that there are now."""
    return all(theirs.get(key, "") == value for key, value in ours.items())


def _cards(checkpoint: TrainedCheckpoint, patients: Sequence[str], name: str) -> Iterator[Card]:
    """Each patient, scored by the function that scores in training. Raises SegtrainError."""
    store = ensure_store(checkpoint.cfg.data)
    store.require(patients)
    with opened([checkpoint]) as predictor, Progress(f"atlas of {name}", len(patients), "patients") as bar:
        from segtrain.evaluation.evaluate import score_patient  # imports torch: seconds

        for patient in patients:
            score, predicted_rshw, true_rshw = score_patient(predictor, None, store, patient, draw=False)
            yield _card(store, score, predicted_rshw[0], true_rshw[0])
            bar.advance(1, patient=patient)


def _card(store: Store, score: "PatientScore", predicted_shw: NDArray[np.bool_], true_shw: NDArray[np.bool_]) -> Card:
    patient = score.patient
    image_shwc, _ = store.volume(patient)
    counted = [predicted_shw & true_shw, predicted_shw & ~true_shw, true_shw & ~predicted_shw]
    by_slice = zip(*(voxels.sum((1, 2)).tolist() for voxels in counted), strict=True)
    slices = [Slice(k, *tfn) for k, tfn in zip(store.patients[patient].slice_numbers, by_slice, strict=True)]
    row = {key: str(value) for key, value in score.rows()[0].items()}
    sums = {key: str(sum(getattr(one, key) for one in slices)) for key in ("tp", "fp", "fn")}
    assert row | sums == row, "the volumes are those that were scored"
    return Card(patient, row, slices, sprites(image_shwc[..., FLAIR], predicted_shw, true_shw))


def _wrong_then_correct(counts: Slice) -> tuple[int, int]:
    return counts.fp + counts.fn, counts.tp


def shown(
    runs: Sequence[Collected], groups: Mapping[str, Sequence[Collected]], rows: Sequence[Row], named: Sequence[Path]
) -> list[Collected]:
    """The runs that get an atlas: the named ones, or else one of the baseline and one of the best other variant.

    These two have fold and seed in common where that is possible. Of a single variant it is the first run. Raises
    RunError: a named run is not among `runs`.
    """
    if named:
        by_root = {run.run.root.resolve(): run for run in runs}
        for path in named:
            if path.resolve() not in by_root:
                raise RunError(f"--atlas {path}: is not among the runs of the report; name one of them")
        return [by_root[path] for path in dict.fromkeys(path.resolve() for path in named)]
    if not groups:
        return [run for run in runs if run.last][-1:]
    baseline = groups[rows[0].variant]
    if len(rows) == 1:
        return [baseline[0]]
    best = groups[max(rows[1:], key=lambda row: row.summary.mean).variant]
    pairs = [[one, two] for one in baseline for two in best if (one.fold, one.seed) == (two.fold, two.seed)]
    return pairs[0] if pairs else [baseline[0], best[0]]
