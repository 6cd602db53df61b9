"""Made-up patients: skull, brain, ventricles and lesions in three contrasts, as an imperfect scanner shows them.

They stand in for real data: to try the commands, to test, to rehearse a cluster job. The contrasts are correlated and
have a bias field; scalp, vessels and bright caps at the ventricles are as bright on FLAIR as lesions are; some patients
lack a contrast (FLAIR stands in for it), as in the real data. No score on them says anything about real patients.

Legend: s slice, h height, w width, c channel (pre-contrast, FLAIR, post-contrast).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segtrain.config import LGG_CONTRASTS, PhantomConfig
from segtrain.data.sources.base import Check, Volume, digest, no_check, plain_slice_names
from segtrain.data.sources.images import write_masks, write_pages
from segtrain.data.sources.labels import LabelRules

# Raise it when any phantom changes in any voxel; stores of phantoms are then prepared anew. The number is in the
# source's fingerprint, and a test holds it against recorded phantoms.
PHANTOM_VERSION = 1

Field = NDArray[np.float32]

#            tissue            pre   FLAIR post
INTENSITY = {
    "air": (0.00, 0.00, 0.00),
    "scalp": (0.80, 0.72, 0.84),
    "bone": (0.10, 0.12, 0.11),
    "grey": (0.42, 0.50, 0.46),
    "white": (0.54, 0.43, 0.57),
    "ventricle": (0.22, 0.16, 0.24),
    "vessel": (0.62, 0.70, 0.88),
    "cap": (0.52, 0.70, 0.56),  # harmless bright tissue around the ventricles
}


def phantom_patient(seed: int, index: int, size_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image uint8 [s, size, size, 3] and mask uint8 0/1 [s, size, size]: a pure function of the arguments."""
    rng, slices = _generator(seed, index)
    shape = (slices, size_px, size_px)
    z, y, x = np.meshgrid(
        np.linspace(-1, 1, shape[0], dtype=np.float32),
        np.linspace(-1, 1, size_px, dtype=np.float32),
        np.linspace(-1, 1, size_px, dtype=np.float32),
        indexing="ij",
    )
    head = _head_distance(rng, z, y, x)
    brain = head < 0.80
    image = _anatomy(rng, head, brain, z, y, x)
    mask = _lesions(rng, brain & (head < 0.76), z, y, x)
    _paint_lesions(rng, image, mask)
    _scan(rng, image, z, y, x)
    missing = rng.random()
    if missing < 0.08:
        image[..., 0] = image[..., 1]
    elif missing < 0.20:
        image[..., 2] = image[..., 1]
    return np.clip(image * 255, 0, 255).round().astype(np.uint8), mask.astype(np.uint8)


def _generator(seed: int, index: int) -> tuple[np.random.Generator, int]:
    """The patient's generator after its first draw, and that draw: the number of slices."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    return rng, int(rng.integers(20, 41))


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> Field:
    """Gaussian noise smoothed in plane over `sigma_px` (less across slices), with unit standard deviation."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    field: Field = ndimage.gaussian_filter(noise, (sigma_px / 5, sigma_px, sigma_px), mode="wrap")
    field /= field.std()
    return field


def _head_distance(rng: np.random.Generator, z: Field, y: Field, x: Field) -> Field:
    """0 at the head's axis, 1 on its skin: in each slice an ellipse, narrower towards the crown."""
    height, width = rng.uniform(0.80, 0.92), rng.uniform(0.66, 0.80)
    shift_y, shift_x = rng.uniform(-0.05, 0.05, 2)
    narrowing = np.sqrt(1 - 0.55 * np.clip((z + 0.3) / 1.3, 0, 1) ** 2)
    wobble = 1 + 0.015 * _smooth(rng, z.shape, z.shape[1] / 12)
    distance: Field = np.hypot((y - shift_y) / height, (x - shift_x) / width) / narrowing * wobble
    return distance.astype(np.float32)


def _anatomy(
    rng: np.random.Generator, head: Field, brain: NDArray[np.bool_], z: Field, y: Field, x: Field
) -> NDArray[np.float32]:
    image = np.zeros((*head.shape, 3), np.float32)
    image[head < 1.0] = INTENSITY["scalp"]
    image[head < 0.90] = INTENSITY["bone"]
    folds = _smooth(rng, head.shape, head.shape[1] / 28) + 4 * (head - 0.55)
    image[brain] = INTENSITY["white"]
    image[brain & (folds > 0.3)] = INTENSITY["grey"]
    vessels = np.abs(_smooth(rng, head.shape, head.shape[1] / 22)) < 0.025
    image[brain & vessels & (rng.random() < 0.8)] = INTENSITY["vessel"]
    wide, tall, off = rng.uniform(0.06, 0.12), rng.uniform(0.20, 0.34), rng.uniform(0.10, 0.15)
    lateral = np.hypot((np.abs(x) - off - 0.12 * np.abs(y)) / wide, y / tall)
    open_here = (z > -0.5) & (z < 0.6) & brain
    image[open_here & (lateral < 1.25) & (np.abs(y) > 0.55 * tall)] = INTENSITY["cap"]
    image[open_here & (lateral < 1.0)] = INTENSITY["ventricle"]
    return image


def _lesions(rng: np.random.Generator, room: NDArray[np.bool_], z: Field, y: Field, x: Field) -> NDArray[np.bool_]:
    """One to three lumpy blobs inside `room`, the first one large enough to extend over several slices."""
    mask = np.zeros(room.shape, bool)
    count = int(rng.choice([1, 1, 1, 2, 3]))
    for number in range(count):
        radius = rng.uniform(0.17, 0.36) if number == 0 else rng.uniform(0.09, 0.16)
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.42)
        centre_z = rng.uniform(-0.45, 0.45)
        stretch = rng.uniform(0.75, 1.3, 2)
        distance = np.sqrt(
            ((y - away * np.sin(angle)) / stretch[0]) ** 2
            + ((x - away * np.cos(angle)) / stretch[1]) ** 2
            + ((z - centre_z) * rng.uniform(0.55, 0.9)) ** 2
        )
        lumps = 1 + 0.16 * _smooth(rng, room.shape, room.shape[1] * radius / 5)
        mask |= distance < radius * lumps
    mask &= room
    # The lumpy surface leaves specks beside a blob; these are no lesions.
    labels, components = ndimage.label(mask)
    if not components:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.isin(labels, np.flatnonzero(sizes >= max(30, sizes.max() // 50)))


def _paint_lesions(rng: np.random.Generator, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    """Lesions are brighter on FLAIR and darker before contrast; some enhance at the rim."""
    soft = ndimage.gaussian_filter(mask.astype(np.float32), (0.3, 0.8, 0.8))
    texture = 1 + 0.12 * _smooth(rng, mask.shape, mask.shape[1] / 20)
    displaced = 0.8 * soft[..., None]  # of the tissue that was there
    image += displaced * (np.array(INTENSITY["grey"], np.float32) - image)
    image[..., 1] += soft * texture * rng.uniform(0.18, 0.30)
    image[..., 0] -= soft * texture * rng.uniform(0.06, 0.14)
    image[..., 2] -= soft * texture * rng.uniform(0.02, 0.10)
    if rng.random() < 0.3:
        rim = soft * (1 - ndimage.gaussian_filter(mask.astype(np.float32), (0.5, 2.5, 2.5)))
        image[..., 2] += 0.9 * rim


def _scan(rng: np.random.Generator, image: NDArray[np.float32], z: Field, y: Field, x: Field) -> None:
    """The scanner's blur, bias field (in part common to the contrasts) and noise."""
    shared = rng.uniform(-0.28, 0.28, 5)
    for channel in range(3):
        own = shared + rng.uniform(-0.10, 0.10, 5)
        bias = np.exp(own[0] * x + own[1] * y + own[2] * x * y + own[3] * (x**2 - 0.3) + 0.3 * own[4] * z)
        plane = ndimage.gaussian_filter(image[..., channel], (0, 0.6, 0.6)) * bias
        noise = rng.standard_normal((2, *plane.shape), dtype=np.float32) * rng.uniform(0.012, 0.028)
        image[..., channel] = 0.85 * np.hypot(plane + noise[0], noise[1])  # Rician, as magnitude images are


@dataclass(frozen=True)
class PhantomSource:
    """Made-up patients: a pure function of the config, with no file behind them."""

    config: PhantomConfig

    @property
    def label(self) -> str:
        return "phantom patients (made up, not real data)"

    @property
    def contrasts(self) -> tuple[str, ...]:
        return LGG_CONTRASTS

    @property
    def rules(self) -> LabelRules:
        return LabelRules()

    def patients(self) -> list[str]:
        return [f"PHANTOM_{index:04d}" for index in range(self.config.patients)]

    def slices(self, patient: str) -> int:
        return _generator(self.config.seed, _index(patient))[1]

    def fingerprint(self, check: Check = no_check) -> str:
        return digest([repr(self.config).encode(), str(PHANTOM_VERSION).encode()])

    def stamp(self) -> None:
        return None

    def read(self, patient: str) -> Volume:
        image_shwc, mask_shw = phantom_patient(self.config.seed, _index(patient), self.config.size_px)
        slices = len(image_shwc)
        return Volume(image_shwc, mask_shw, plain_slice_names(slices), tuple(range(1, slices + 1)))

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


def _index(patient: str) -> int:
    return int(patient.rsplit("_", 1)[1])
