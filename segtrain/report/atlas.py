"""The atlas of a run: every validation patient, slice by slice, segmented by the checkpoint behind its scores.

The code that scores during training predicts it again, so that pictures and numbers belong to one volume. Imports torch
only when an atlas is made.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from segtrain.config import LGG_CONTRASTS, POSTPROCESSING
from segtrain.data.prepare import ensure_store
from segtrain.errors import DAMAGED, RunError, SegtrainError
from segtrain.evaluation.ensemble import TrainedCheckpoint, opened, select_checkpoints
from segtrain.evaluation.overlays import shown_contrast
from segtrain.evaluation.trained_on import trained_on
from segtrain.evaluation.units import usable
from segtrain.report.card import Card, Names, make_card
from segtrain.report.collect import Collected
from segtrain.report.statistics import Row
from segtrain.run.manifest import weights_sha256
from segtrain.runtime.terminal import Progress

log = logging.getLogger(__name__)

ATLAS_MB = 10  # of the page, as base64, for all atlases of a report together
SETTINGS = (*POSTPROCESSING, "tta")  # of `evaluate`, shown with an atlas


@dataclass(frozen=True)
class Atlas:
    """A run's patients, worst first by `sort`, of SORTS; or the reason why there is no atlas."""

    run: str
    reason: str = ""
    epoch: int = 0
    checkpoint: str = ""
    sha256: str = ""  # of the weights, as in the checkpoint's manifest
    settings: str = ""
    shown: str = ""  # the contrast of the layer "flair"
    others: Sequence[str] = ()  # further contrasts, whose layers are "contrast0" and so on by their places in the names
    unshown: Sequence[str] = ()  # contrasts for which the page had no room
    names: Names = field(default_factory=Names)
    cards: Sequence[Card] = ()
    left_out: int = 0  # patients for whom the page had no room
    differ: Sequence[str] = ()  # patients whose scores are not exactly those of the run's table
    sort: str = "dsc"

    @property
    def regions(self) -> list[str]:
        """The regions, where there are several."""
        return [row["region"] for row in self.cards[0].rows if "region" in row] if self.cards else []

    @property
    def layers(self) -> dict[str, str]:
        """The layer of each contrast that can be chosen."""
        numbers = {name: number for number, name in enumerate(self.names.contrasts)}
        return {self.shown: "flair"} | {name: f"contrast{numbers[name]}" for name in self.others}

    @property
    def ranks(self) -> list[dict[str, int]]:
        """Each card's place, from 1, by each order."""
        orders = {
            "dsc": sorted(self.cards, key=lambda card: (card.dsc, card.patient)),
            "lesion": sorted(self.cards, key=lambda card: card.by_lesion),
        }
        places = {
            sort: {card.patient: place for place, card in enumerate(cards, start=1)} for sort, cards in orders.items()
        }
        return [{sort: by_patient[card.patient] for sort, by_patient in places.items()} for card in self.cards]

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return sum(card.pictures.size for card in self.cards)


def atlases(runs: Sequence[Collected], overrides: Sequence[str] = (), sort: str = "dsc") -> list[Atlas]:
    """An atlas of each run's last epoch, sorted by one of SORTS.

    One that cannot be made has the reason, which is logged too.
    """
    results = []
    room = int(ATLAS_MB * 1e6 / max(1, len(runs)))
    names = names_of(runs)
    for run in runs:
        try:
            results.append(_atlas(run, overrides, room, names, sort))
        except (SegtrainError, *DAMAGED) as error:
            log.warning("no atlas of %s: %s", run.name, error)
            results.append(Atlas(run.name, str(error)))
    return results


def names_of(runs: Sequence[Collected]) -> Names:
    """The contrasts and regions of these runs, each once."""
    contrasts = dict.fromkeys(name for run in runs if run.config for name in run.config.data.contrasts or ())
    return Names(tuple(contrasts), tuple(dict.fromkeys(region for run in runs for region in run.regions)))


def _atlas(run: Collected, overrides: Sequence[str], room: int, names: Names, sort: str) -> Atlas:
    """The atlas of as many of the worst patients as there is room for (bytes). Raises SegtrainError."""
    if run.last is None:
        raise RunError(f"{run.run.root}: nothing was evaluated yet")
    checkpoint = select_checkpoints([run.run.root], str(run.last.step), overrides)[0]
    for what, part in (("network", checkpoint.own_network), ("source", checkpoint.own_source)):
        if part is not None:
            raise RunError(
                f"{run.run.root}: its {what} {part.short} is code of the user's own, which a report does not run; "
                f"segtrain predict {run.run.root} --images DIR draws it"
            )
    dsc_by_patient = run.last.by_patient
    if seen := sorted(trained_on(dsc_by_patient, [checkpoint])):
        raise RunError(f"{run.run.root}: patient {seen[0]} is on both sides of its split; none of its scores is valid")
    contrasts = checkpoint.cfg.data.contrasts or LGG_CONTRASTS
    shown = contrasts[shown_contrast(contrasts)]
    others = [name for name in contrasts if name != shown] if checkpoint.cfg.data.contrasts else []
    worst_first = sorted(dsc_by_patient, key=lambda patient: (dsc_by_patient[patient], patient))
    in_order = _cards(checkpoint, worst_first, run.name, names)
    if sort == "lesion":  # known only once all patients are predicted
        in_order = iter(sorted(in_order, key=lambda card: card.by_lesion))
    cards, unshown = _fitting(in_order, others, room, names)
    if not cards:
        raise RunError(f"no room for a patient in {room / 1e6:g} MB of the page; name fewer runs with --atlas")
    evaluation = asdict(checkpoint.cfg.evaluate)
    rows = {(row["patient"], row.get("region")): row for row in run.last.rows}
    return Atlas(
        run=run.name,
        epoch=run.last.epoch,
        checkpoint=checkpoint.folder.name,
        sha256=weights_sha256(checkpoint.folder),
        settings=" ".join(f"{key}={evaluation[key]}" for key in SETTINGS),
        shown=shown,
        others=[name for name in others if name not in unshown],
        unshown=unshown,
        names=names,
        cards=sorted(cards, key=lambda card: card.by_lesion if sort == "lesion" else (card.dsc, card.patient)),
        left_out=len(dsc_by_patient) - len(cards),
        differ=[card.patient for card in cards if not all(_agrees(row, rows) for row in card.rows)],
        sort=sort,
    )


def _fitting(cards: Iterator[Card], others: Sequence[str], room: int, names: Names) -> tuple[list[Card], Sequence[str]]:
    """As many cards as there is room for, with one contrast alone if all do not fit; and the contrasts left out."""
    layers = {f"contrast{names.contrasts.index(name)}" for name in others}
    fitting: list[Card] = []
    unshown: Sequence[str] = ()
    for card in cards:
        fitting.append(card if not unshown else _without(card, layers))
        if layers and not unshown and sum(each.pictures.size for each in fitting) > room:
            unshown = others
            fitting = [_without(each, layers) for each in fitting]
        if sum(each.pictures.size for each in fitting) > room:
            return fitting[:-1], unshown
    return fitting, unshown


def _without(card: Card, layers: Collection[str]) -> Card:
    return replace(card, pictures=card.pictures.without(layers))


def _agrees(ours: Mapping[str, str], rows: Mapping[tuple[str, str | None], Mapping[str, str]]) -> bool:
    """Whether the run's table has the same values in all columns that there are now."""
    theirs = rows.get((ours["patient"], ours.get("region")), {})
    return all(theirs.get(key, "") == value for key, value in ours.items())


def _cards(checkpoint: TrainedCheckpoint, patients: Sequence[str], run: str, names: Names) -> Iterator[Card]:
    """Each patient, scored by the function that scores in training. Raises SegtrainError."""
    store = ensure_store(checkpoint.cfg.data)
    store.require(patients)
    in_mm = all(map(usable, store.columns.spacings_of(patients).values()))
    with opened([checkpoint]) as predictor, Progress(f"atlas of {run}", len(patients), "patients") as bar:
        from segtrain.evaluation.evaluate import score_patient  # imports torch: seconds

        for patient in patients:
            score, predicted_rshw, true_rshw = score_patient(predictor, None, store, patient, draw=False)
            rows = [{key: str(value) for key, value in row.items()} for row in score.rows()]
            yield make_card(store, rows, predicted_rshw, true_rshw, names, in_mm)
            bar.advance(1, patient=patient)


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
