"""A source of the user's own tried on a few of its patients, for `segtrain check`."""

from collections.abc import Callable
from functools import partial

import numpy as np

from segtrain.config import DataConfig
from segtrain.config.trial import Check, Verdict
from segtrain.data.people import people_of
from segtrain.data.sources.base import Volume, first_few
from segtrain.data.sources.own import OwnSource
from segtrain.errors import DataError

SAMPLED = 3
FEWEST_SLICES = 3  # preparation drops the first and the last


def checks_of(cfg: DataConfig) -> tuple[str, list[Check]]:
    """A line about the source, and its trials: what each law needs of it, on its first patients.

    Raises ConfigError where the source cannot be made, DataError where it lists no patients.
    """
    source = OwnSource(cfg)
    patients = source.patients()
    people = set(people_of(patients, None, {p: person for p in patients if (person := source.person(p))}).values())
    description = f"{source.label}: {len(patients)} patients of {len(people)} people, {first_few(source.contrasts)}"
    volumes: dict[str, Volume] = {}
    checks = [_tried("patients (L1)", lambda: _same_patients(source, patients))]
    for patient in patients[:SAMPLED]:
        checks.append(_tried(f"{patient} is read (L12)", partial(_read, source, patient, volumes)))
        if patient in volumes:
            checks.append(_tried(f"{patient} is read again (L6)", partial(_read_again, source, patient)))
    if len(volumes) > 1:
        checks.append(_tried("no two patients alike (L1)", lambda: _none_alike(volumes)))
    checks.append(_fingerprint(source))
    return description, checks


def _tried(name: str, trial: Callable[[], str]) -> Check:
    try:
        return Check(name, "holds", trial())
    except DataError as error:
        return Check(name, "fails", str(error))


def _same_patients(source: OwnSource, patients: list[str]) -> str:
    if source.patients() != patients:
        raise DataError("patients() gives others the second time; make it depend on the data alone")
    return f"{len(patients)}, the same when listed again: {first_few(patients)}"


def _read(source: OwnSource, patient: str, volumes: dict[str, Volume]) -> str:
    volume = source.read(patient)
    slices, height, width, _ = volume.image_shwc.shape
    if slices < FEWEST_SLICES:
        raise DataError(f"{slices} slice(s), but {FEWEST_SLICES} are needed; leave the patient out of patients()")
    if source.slices(patient) != slices:
        raise DataError(f"slices() says {source.slices(patient)}, but read gives {slices}; make them agree")
    constant = [name for c, name in enumerate(source.contrasts) if np.ptp(volume.image_shwc[..., c]) == 0]
    if constant:
        raise DataError(f"contrast {first_few(constant)} is constant; leave it out of contrasts")
    volumes[patient] = volume
    image = f"{slices} slices of {height}x{width}, {volume.image_shwc.dtype}"
    if volume.mask_shw is None:
        return f"{image}; no labels, so it cannot be trained on"
    labels = ", ".join(f"{label}: {count}" for label, count in volume.label_voxels.items())
    return f"{image}; voxels by label {labels}"


def _read_again(source: OwnSource, patient: str) -> str:
    source.refuse_changing(patient)
    return "the same bytes"


def _none_alike(volumes: dict[str, Volume]) -> str:
    seen: dict[bytes, str] = {}
    for patient, volume in volumes.items():
        for plane in volume.image_shwc:
            if plane.max() > plane.min() and seen.setdefault(plane.tobytes(), patient) != patient:
                raise DataError(f"{seen[plane.tobytes()]} and {patient} share a slice; list each scan once")
    return f"no slice of {len(volumes)} is another's"


def _fingerprint(source: OwnSource) -> Check:
    name = "fingerprint (L11)"
    if not callable(getattr(source.mine, "fingerprint", None)):
        message = "it has none: every start reads all patients to know the data again; a method fingerprint() spares it"
        return Check(name, "warning", message)
    same = source.mine.fingerprint() == source.mine.fingerprint()
    verdict: Verdict = "holds" if same else "fails"
    return Check(
        name, verdict, "the same when asked again" if same else "another the second time; derive it from files"
    )
