"""Drawing made-up patients: head, brain, lesions and their tissues, and what a scanner makes of them.

The first three contrasts (pre-contrast, FLAIR, post-contrast) and the lesion come from one generator, in an order that
must stay. What was added later, T2 and the tissues of a lesion, has a generator of its own.

Legend: s slice, h height, w width, c channel; coordinates from -1 to 1: z up, y to the back, x to the left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]

T1, FLAIR, T1CE, T2 = range(4)
#            tissue     T1    FLAIR T1ce  T2
INTENSITY = {
    "air": (0.00, 0.00, 0.00, 0.00),
    "scalp": (0.80, 0.72, 0.84, 0.58),
    "bone": (0.10, 0.12, 0.11, 0.10),
    "grey": (0.42, 0.50, 0.46, 0.52),
    "white": (0.54, 0.43, 0.57, 0.40),
    "ventricle": (0.22, 0.16, 0.24, 0.94),
    "vessel": (0.62, 0.70, 0.88, 0.20),
    "cap": (0.52, 0.70, 0.56, 0.60),  # harmless bright tissue around the ventricles
}
TISSUES = tuple(INTENSITY)
NECROSIS, EDEMA, ENHANCING = 1, 2, 3  # labels as in BraTS 2023
# Of the tissues in a lesion's core; edema is what the lesion is painted as.
CORE_INTENSITY = {NECROSIS: (0.24, 0.48, 0.26, 0.80), ENHANCING: (0.44, 0.54, 0.98, 0.62)}
NO_ENHANCEMENT = 0.1  # share of patients


@dataclass(frozen=True)
class Grid:
    """Coordinates of the voxels [s, h, w]."""

    z: Field
    y: Field
    x: Field

    @classmethod
    def of(cls, slices: int, size_px: int) -> "Grid":
        """The grid of a patient."""
        ends = [np.linspace(-1, 1, n, dtype=np.float32) for n in (slices, size_px, size_px)]
        return cls(*np.meshgrid(*ends, indexing="ij"))


def smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> Field:
    """Gaussian noise smoothed in plane over `sigma_px` (less across slices), with unit standard deviation."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    field: Field = ndimage.gaussian_filter(noise, (sigma_px / 5, sigma_px, sigma_px), mode="wrap")
    field /= field.std()
    return field


def head_distance(rng: np.random.Generator, grid: Grid) -> Field:
    """0 at the head's axis, 1 on its skin: in each slice an ellipse, narrower towards the crown."""
    height, width = rng.uniform(0.80, 0.92), rng.uniform(0.66, 0.80)
    shift_y, shift_x = rng.uniform(-0.05, 0.05, 2)
    narrowing = np.sqrt(1 - 0.55 * np.clip((grid.z + 0.3) / 1.3, 0, 1) ** 2)
    wobble = 1 + 0.015 * smooth(rng, grid.z.shape, grid.z.shape[1] / 12)
    distance: Field = np.hypot((grid.y - shift_y) / height, (grid.x - shift_x) / width) / narrowing * wobble
    return distance.astype(np.float32)


def tissues(rng: np.random.Generator, head: Field, brain: NDArray[np.bool_], grid: Grid) -> NDArray[np.uint8]:
    """uint8 [s, h, w]: the place of each voxel's tissue in TISSUES."""
    tissue = np.full(head.shape, TISSUES.index("air"), np.uint8)
    tissue[head < 1.0] = TISSUES.index("scalp")
    tissue[head < 0.90] = TISSUES.index("bone")
    folds = smooth(rng, head.shape, head.shape[1] / 28) + 4 * (head - 0.55)
    tissue[brain] = TISSUES.index("white")
    tissue[brain & (folds > 0.3)] = TISSUES.index("grey")
    vessels = np.abs(smooth(rng, head.shape, head.shape[1] / 22)) < 0.025
    tissue[brain & vessels & (rng.random() < 0.8)] = TISSUES.index("vessel")
    wide, tall, off = rng.uniform(0.06, 0.12), rng.uniform(0.20, 0.34), rng.uniform(0.10, 0.15)
    lateral = np.hypot((np.abs(grid.x) - off - 0.12 * np.abs(grid.y)) / wide, grid.y / tall)
    open_here = (grid.z > -0.5) & (grid.z < 0.6) & brain
    tissue[open_here & (lateral < 1.25) & (np.abs(grid.y) > 0.55 * tall)] = TISSUES.index("cap")
    tissue[open_here & (lateral < 1.0)] = TISSUES.index("ventricle")
    return tissue


def in_contrasts(tissue: NDArray[np.uint8], channels: slice) -> Field:
    """float32 [s, h, w, c]: the tissues as they are on some contrasts, before the scanner."""
    table = np.array([INTENSITY[name][channels] for name in TISSUES], np.float32)
    return table[tissue]


def lesions(rng: np.random.Generator, room: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """One to three lumpy blobs inside `room`, the first one large enough to extend over several slices."""
    mask = np.zeros(room.shape, bool)
    count = int(rng.choice([1, 1, 1, 2, 3]))
    for number in range(count):
        radius = rng.uniform(0.17, 0.36) if number == 0 else rng.uniform(0.09, 0.16)
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.42)
        centre_z = rng.uniform(-0.45, 0.45)
        stretch = rng.uniform(0.75, 1.3, 2)
        distance = np.sqrt(
            ((grid.y - away * np.sin(angle)) / stretch[0]) ** 2
            + ((grid.x - away * np.cos(angle)) / stretch[1]) ** 2
            + ((grid.z - centre_z) * rng.uniform(0.55, 0.9)) ** 2
        )
        lumps = 1 + 0.16 * smooth(rng, room.shape, room.shape[1] * radius / 5)
        mask |= distance < radius * lumps
    mask &= room
    # The lumpy surface leaves specks beside a blob; these are no lesions.
    components, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.isin(components, np.flatnonzero(sizes >= max(30, sizes.max() // 50)))


def paint_lesions(rng: np.random.Generator, image: Field, mask: NDArray[np.bool_], rim: bool = True) -> None:
    """Lesions are brighter on FLAIR and darker on T1; some enhance at the rim, where `rim` allows it."""
    soft = _softened(mask)
    texture = 1 + 0.12 * smooth(rng, mask.shape, mask.shape[1] / 20)
    displaced = 0.8 * soft[..., None]  # of the tissue that was there
    image += displaced * (np.array(INTENSITY["grey"][:3], np.float32) - image)
    image[..., FLAIR] += soft * texture * rng.uniform(0.18, 0.30)
    image[..., T1] -= soft * texture * rng.uniform(0.06, 0.14)
    image[..., T1CE] -= soft * texture * rng.uniform(0.02, 0.10)
    if rng.random() < 0.3 and rim:
        border = soft * (1 - ndimage.gaussian_filter(mask.astype(np.float32), (0.5, 2.5, 2.5)))
        image[..., T1CE] += 0.9 * border


def paint_t2(rng: np.random.Generator, tissue: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Field:
    """float32 [s, h, w, 1]: the tissues on T2, with a lesion brighter than grey matter and darker than ventricles."""
    image = in_contrasts(tissue, slice(T2, T2 + 1))
    soft = _softened(mask)[..., None]
    texture = 1 + 0.12 * smooth(rng, mask.shape, mask.shape[1] / 20)[..., None]
    image += 0.8 * soft * (np.float32(INTENSITY["grey"][T2]) - image)
    image += soft * texture * rng.uniform(0.16, 0.26)
    return image


def core_of_lesions(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8 labels [s, h, w]: in the depth of each lesion necrosis, around it a shell that enhances, edema outside.

    Some patients have nothing that enhances, as in real data.
    """
    enhances = rng.random() >= NO_ENHANCEMENT
    labels = np.where(mask, np.uint8(EDEMA), np.uint8(0))
    size_px = mask.shape[1]
    sampling = (size_px / 12, 1, 1)  # slices are thick
    components, count = ndimage.label(mask)
    lumps = 1 + 0.18 * smooth(rng, mask.shape, size_px / 24)
    for number in range(1, count + 1):
        lesion = components == number
        depth = ndimage.distance_transform_edt(np.pad(lesion, 1), sampling)[1:-1, 1:-1, 1:-1]
        relative = depth / depth.max() * lumps
        shell, inner = rng.uniform(0.30, 0.42), rng.uniform(0.55, 0.72)
        labels[lesion & (relative > shell)] = ENHANCING if enhances else NECROSIS
        labels[lesion & (relative > inner)] = NECROSIS
    return labels


def paint_core(image: Field, labels: NDArray[np.uint8], channels: slice) -> None:
    """Bring the tissues of the lesions' core into an image of these contrasts."""
    for label, intensity in CORE_INTENSITY.items():
        soft = 0.85 * _softened(labels == label)[..., None]
        image += soft * (np.array(intensity[channels], np.float32) - image)


def _softened(mask: NDArray[np.bool_]) -> Field:
    soft: Field = ndimage.gaussian_filter(mask.astype(np.float32), (0.3, 0.8, 0.8))
    return soft


def scan(rng: np.random.Generator, image: Field, grid: Grid) -> None:
    """The scanner's blur, bias field (in part common to the contrasts) and noise."""
    shared = rng.uniform(-0.28, 0.28, 5)
    z, y, x = grid.z, grid.y, grid.x
    for channel in range(image.shape[-1]):
        own = shared + rng.uniform(-0.10, 0.10, 5)
        bias = np.exp(own[0] * x + own[1] * y + own[2] * x * y + own[3] * (x**2 - 0.3) + 0.3 * own[4] * z)
        plane = ndimage.gaussian_filter(image[..., channel], (0, 0.6, 0.6)) * bias
        noise = rng.standard_normal((2, *plane.shape), dtype=np.float32) * rng.uniform(0.012, 0.028)
        image[..., channel] = 0.85 * np.hypot(plane + noise[0], noise[1])  # Rician, as magnitude images are
