"""Made-up patients: skull, brain, ventricles and lesions in up to four contrasts, as an imperfect scanner shows them.

They stand in for real data: to try the commands, to test, to rehearse a cluster job. The contrasts are correlated and
have a bias field; scalp, vessels and bright caps at the ventricles are as bright on FLAIR as lesions are; some patients
of the usual three contrasts lack one (FLAIR stands in for it), as in the real data. No score on them says anything
about real patients.

Legend: s slice, h height, w width, c channel (one a contrast).
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segtrain.config import LGG_CONTRASTS, PhantomConfig, canonical
from segtrain.data.sources.anatomy import (
    FLAIR,
    T1,
    T1CE,
    T2,
    Grid,
    core_of_lesions,
    head_distance,
    in_contrasts,
    lesions,
    paint_core,
    paint_lesions,
    paint_t2,
    scan,
    tissues,
)
from segtrain.data.sources.base import Check, Volume, digest, no_check, plain_slice_names
from segtrain.data.sources.images import write_masks, write_pages
from segtrain.data.sources.labels import LabelRules

# Raise it when any phantom changes in any voxel; stores of phantoms are then prepared anew. The number is in the
# source's fingerprint, and a test holds it against recorded phantoms.
PHANTOM_VERSION = 1
FIRST_FIELDS = ("patients", "seed", "size_px")  # of PhantomConfig; later ones count where they are not the default
CHANNELS = {"t1": T1, "flair": FLAIR, "t1ce": T1CE, "t2": T2}
# Streams of a patient's generators.
T2_STREAM, CORE_STREAM, UNLABELLED_STREAM = 1, 2, 3


@dataclass(frozen=True)
class Phantom:
    """A made-up patient.

    image_shwc: uint8 [s, h, w, c]; labels_shw: uint8, 1 for a lesion, or its tissues; brain_shw: where the brain is.
    """

    image_shwc: NDArray[np.uint8]
    labels_shw: NDArray[np.uint8]
    brain_shw: NDArray[np.bool_]


def phantom_patient(seed: int, index: int, size_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image uint8 [s, size, size, 3] and mask uint8 0/1 [s, size, size]: a pure function of the arguments."""
    phantom = draw(PhantomConfig(seed=seed, size_px=size_px), index)
    return phantom.image_shwc, phantom.labels_shw


def draw(cfg: PhantomConfig, index: int) -> Phantom:
    """The patient of that number: a pure function of the arguments."""
    rng, slices = _generator(cfg.seed, index)
    grid = Grid.of(slices, cfg.size_px)
    head = head_distance(rng, grid)
    brain = head < 0.80
    tissue = tissues(rng, head, brain, grid)
    image = in_contrasts(tissue, slice(0, 3))
    mask = lesions(rng, brain & (head < 0.76), grid)
    paint_lesions(rng, image, mask, rim=cfg.regions == 1)
    labels = mask.astype(np.uint8)
    if cfg.regions > 1:
        labels = core_of_lesions(_own_generator(cfg.seed, index, CORE_STREAM), mask)
        paint_core(image, labels, slice(0, 3))
    scan(rng, image, grid)
    if cfg.contrasts == LGG_CONTRASTS:
        _leave_out_a_contrast(rng, image)
    channels = [CHANNELS[canonical(contrast)] for contrast in cfg.contrasts]
    if T2 in channels:
        rng_t2 = _own_generator(cfg.seed, index, T2_STREAM)
        t2 = paint_t2(rng_t2, tissue, mask)
        if cfg.regions > 1:
            paint_core(t2, labels, slice(T2, T2 + 1))
        scan(rng_t2, t2, grid)
        image = np.concatenate((image, t2), axis=-1)
    if cfg.unlabelled:
        _leave_slices_unlabelled(_own_generator(cfg.seed, index, UNLABELLED_STREAM), labels, cfg)
    pixels = np.clip(image[..., channels] * 255, 0, 255).round().astype(np.uint8)
    return Phantom(np.ascontiguousarray(pixels), labels, brain)


def _generator(seed: int, index: int) -> tuple[np.random.Generator, int]:
    """The patient's generator after its first draw, and that draw: the number of slices."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    return rng, int(rng.integers(20, 41))


def _own_generator(seed: int, index: int, stream: int) -> np.random.Generator:
    """A generator of the patient that shares no number with the first one."""
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream]))


def _leave_out_a_contrast(rng: np.random.Generator, image: NDArray[np.float32]) -> None:
    missing = rng.random()
    if missing < 0.08:
        image[..., T1] = image[..., FLAIR]
    elif missing < 0.20:
        image[..., T1CE] = image[..., FLAIR]


def _leave_slices_unlabelled(rng: np.random.Generator, labels: NDArray[np.uint8], cfg: PhantomConfig) -> None:
    """Nobody labelled a share of the slices; the one with the most lesion stays."""
    areas = (labels > 0).sum(axis=(1, 2))
    unlabelled = rng.random(len(labels)) < cfg.unlabelled
    unlabelled[areas.argmax()] = False
    labels[unlabelled] = cfg.ignore[0]


@dataclass(frozen=True)
class PhantomSource:
    """Made-up patients: a pure function of the config, with no file behind them."""

    config: PhantomConfig

    @property
    def label(self) -> str:
        return "phantom patients (made up, not real data)"

    @property
    def contrasts(self) -> tuple[str, ...]:
        return self.config.contrasts

    @property
    def rules(self) -> LabelRules:
        return LabelRules(self.config.labels, self.config.ignore)

    def patients(self) -> list[str]:
        """`PHANTOM_0007`, or where people have several scans `PHANTOM_0003_ses-2`, by which they are recognised."""
        scans = self.config.scans
        if scans == 1:
            return [f"PHANTOM_{index:04d}" for index in range(self.config.patients)]
        return [f"PHANTOM_{index // scans:04d}_ses-{index % scans + 1}" for index in range(self.config.patients)]

    def slices(self, patient: str) -> int:
        return _generator(self.config.seed, self._index(patient))[1]

    def fingerprint(self, check: Check = no_check) -> str:
        settings = {field.name: getattr(self.config, field.name) for field in fields(self.config)}
        default = PhantomConfig()
        text = ", ".join(
            f"{name}={value!r}"
            for name, value in settings.items()
            if name in FIRST_FIELDS or value != getattr(default, name)
        )
        return digest([f"PhantomConfig({text})".encode(), str(PHANTOM_VERSION).encode()])

    def stamp(self) -> None:
        return None

    def read(self, patient: str) -> Volume:
        phantom = draw(self.config, self._index(patient))
        slices = len(phantom.labels_shw)
        labels, voxels = np.unique(phantom.labels_shw, return_counts=True)
        return Volume(
            image_shwc=phantom.image_shwc,
            mask_shw=self.rules.bits(Path(patient), phantom.labels_shw),
            slice_names=plain_slice_names(slices),
            slice_numbers=tuple(range(1, slices + 1)),
            spacing_mm=self.config.spacing_mm,
            label_voxels=dict(zip(labels.tolist(), voxels.tolist(), strict=True)),
        )

    def takes(self, name: str) -> bool:
        return False

    def institution(self, patient: str) -> str:
        return "PHANTOM"

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """An 8-bit TIFF of 0 and 255 for each slice."""
        names = plain_slice_names(len(mask_shw))
        return write_masks(mask_shw, [folder / patient / f"{name}_mask.tif" for name in names])

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        return write_pages(probability_shw, folder / f"{patient}.tif")

    def _index(self, patient: str) -> int:
        """The number of the patient's drawing."""
        _, person, *session = patient.split("_")
        scan_of_person = int(session[0].removeprefix("ses-")) - 1 if session else 0
        return int(person) * self.config.scans + scan_of_person
