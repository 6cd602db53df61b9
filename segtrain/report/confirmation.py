"""What a report says of choices: a search how its best is to be confirmed, a confirmation who chose, and on whom."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from segtrain.data.people import people_of
from segtrain.report.best_of import BestOf
from segtrain.report.collect import Collected
from segtrain.report.texts import Say, first_names
from segtrain.report.variants import best_variant
from segtrain.run import AblationRecord, Search, confirmation_name, read_record

FEWEST_VARIANTS = 3  # besides one variant and the baseline there is no choice
NAMED = 10  # patients in a sentence

Records = Mapping[Path, AblationRecord]  # by the folder of the runs


def records_of(runs: Sequence[Collected]) -> Records:
    """The records of these runs' ablations."""
    folders = dict.fromkeys(run.run.root.parent for run in runs)
    return {folder: record for folder in folders if (record := read_record(folder))}


def confirming(runs: Sequence[Collected]) -> list[Path]:
    """The folders of these runs that are confirmations."""
    return [folder for folder, record in records_of(runs).items() if record.search]


def is_confirmation(records: Records) -> bool:
    """Whether the variant that is compared was chosen before, by a search."""
    return any(record.search for record in records.values())


def notes(runs: Sequence[Collected], records: Records, say: Say) -> Iterator[str]:
    """Of each confirmation the search that chose; nothing where a patient took part in it."""
    for search, own in _confirmations(runs, records):
        patients = {patient for run in own if run.last for patient in run.last.by_patient}
        if patients and not _seen(search, own):
            yield say(
                "confirmation",
                chosen=search.chosen,
                variants=search.variants,
                search=search.name,
                folder=search.folder,
                n=len(search.patients),
                folds=", ".join(map(str, search.folds)),
                here=len(patients),
            )


def warnings(runs: Sequence[Collected], records: Records, say: Say) -> Iterator[str]:
    """The patients of a confirmation who took part in the choice."""
    for search, own in _confirmations(runs, records):
        if seen := _seen(search, own):
            names = first_names(seen, NAMED)
            yield say("confirmation_seen", n=len(seen), chosen=search.chosen, search=search.name, patients=names)


def cautions(
    records: Records, groups: Mapping[str, Sequence[Collected]], best: BestOf | None, baseline: str, say: Say
) -> Iterator[str]:
    """How the best of each search is confirmed. `best`: of all these runs, of which a search may have a part."""
    for folder, record in records.items():
        if record.search:
            continue
        every = {variant: [run for run in runs if run.run.root.parent == folder] for variant, runs in groups.items()}
        own = {variant: runs for variant, runs in every.items() if runs}
        if own != groups:
            best = best_variant(own) if own else None
        if best is None or best.variants < FEWEST_VARIANTS or best.variant == baseline:
            continue
        confirmed = folder.with_name(confirmation_name(record.name))
        if read_record(confirmed):
            yield say("search_confirmed", variant=best.variant, k=best.variants, folder=confirmed)
        elif record.confirm:
            folds = ", ".join(map(str, record.folds_left))
            yield say("search_open", variant=best.variant, k=best.variants, folds=folds, command=record.confirm)
        else:
            yield say("search_without_folds", variant=best.variant, k=best.variants)


def _confirmations(runs: Sequence[Collected], records: Records) -> Iterator[tuple[Search, Sequence[Collected]]]:
    for folder, record in records.items():
        if record.search:
            yield record.search, [run for run in runs if run.run.root.parent == folder]


def _seen(search: Search, runs: Sequence[Collected]) -> list[str]:
    """The patients of these runs who took part in choosing, or whose persons did."""
    took_part = {*search.patients.values()}
    seen: set[str] = set()
    for run in runs:
        scored = set(run.last.by_patient) if run.last else set()
        everybody = scored.union(run.split.patients if run.split else ())  # ids of a whole set say more than some of it
        people = people_of(everybody, None, run.people)
        seen |= {patient for patient in scored if patient in search.patients or people[patient] in took_part}
    return sorted(seen)
