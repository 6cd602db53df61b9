"""Which patients the checkpoints were trained on (L1), and who is the same person as whom."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from segtrain.data.people import dated_people, may_be_same, person_of
from segtrain.data.sources import first_few
from segtrain.evaluation.ensemble import TrainedCheckpoint

UNKNOWN = "unknown"  # whether a patient was trained on
SAME_PIXELS = "patient {patient} has the pixels of {name}, which the run was trained on"

log = logging.getLogger(__name__)


def people_of_patients(patients: Collection[str], checkpoints: Sequence[TrainedCheckpoint]) -> dict[str, str]:
    """The person of each patient: as the runs' splits say, by its id where no split has the patient."""
    people: dict[str, str] = {}
    in_splits: set[str] = set()
    for one in checkpoints:
        people |= one.people
        in_splits |= one.train | one.validation
    alone = in_splits - people.keys()
    dated = dated_people(patients) | dated_people(in_splits)
    by_id = {patient: person_of(patient, dated) for patient in {*alone, *patients}}
    counts = Counter(by_id[patient] for patient in alone)
    # Two ids that would be one person, and by a split are two: data.groups said so, or the run is from before groups.
    people |= {patient: by_id[patient] if counts[by_id[patient]] == 1 else patient for patient in alone}
    return {patient: people.get(patient) or by_id[patient] for patient in patients}


def trained_on(
    patients: Collection[str], checkpoints: Sequence[TrainedCheckpoint], pixels: Mapping[str, str] | None = None
) -> frozenset[str]:
    """Those of the patients that any of the checkpoints was trained on, itself or another scan of the person (L1).

    pixels: the hashes of theirs, which tell a training patient under another name.
    """
    train = frozenset[str]().union(*(checkpoint.train for checkpoint in checkpoints))
    people = people_of_patients({*patients, *train}, checkpoints)
    if doubtful := may_be_same(patients, train):
        log.warning(
            "%d of these patients (%s) may be people that the run was trained on: both are TCGA-LGG patients, whom "
            "BraTS 2021 has under other names; look them up in TCIA's BraTS2021_MappingToTCIA.xlsx, and leave them out",
            len(doubtful),
            first_few(doubtful),
        )
    seen = {people[patient] for patient in train}
    by_name = frozenset(patient for patient in patients if people[patient] in seen)
    return by_name | renamed(pixels or {}, checkpoints).keys()


def unless_seen(checkpoints: Sequence[TrainedCheckpoint]) -> str:
    """The column trained_on of a patient that is not among those trained on."""
    return "no" if all(one.knows_patients for one in checkpoints) else UNKNOWN


def renamed(pixels: Mapping[str, str], checkpoints: Sequence[TrainedCheckpoint]) -> dict[str, str]:
    """Patients that any of the checkpoints was trained on under another name, each with that; pixels: their hashes."""
    names = {
        checkpoint.pixels[patient]: patient
        for checkpoint in checkpoints
        for patient in checkpoint.train
        if patient in checkpoint.pixels
    }
    return {patient: names[mine] for patient, mine in pixels.items() if names.get(mine, patient) != patient}
