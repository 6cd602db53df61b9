"""HD95 of single lesions as BraTS 2023 computes it: on surfaces of small triangles (surfels), weighted by area.

Its code has a copy of DeepMind's surface-distance, whose definitions these are. `surface.py` has others, MONAI's, so
that a single lesion's HD95 differs from `hd95_mm` of the same two shapes.

- A surfel lies at each point where eight voxels meet of which some are in the lesion and some are not; beyond the end
  of the image none is. Its area is that of the triangles of marching cubes there.
- Distance: from a surfel to the nearest one of the other surface, in mm where the spacing is known, in voxels else.
- HD95: the larger of both directions' smallest distance within which 95% of the surface's area lies. No interpolation.

Source: github.com/google-deepmind/surface-distance (Apache 2.0), compute_robust_hausdorff; the table of triangles is
that of its lookup_tables.py, a row for each pattern that is no rotation, reflection or complement of another.

Legend: s slice, h height, w width.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from segtrain.evaluation.units import SOME_SPACING, Spacing

Labels = NDArray[np.int32]  # 0 outside, lesions from 1
Numbers = NDArray[np.float64]
Surface = tuple[Numbers, Numbers]  # places [surfel, axis] and areas of surfels

SHARE = 0.95
# Eight voxels around a point, as the bits of np.packbits, and the normals of the triangles there, in eighths of a
# voxel's faces across slices, rows and columns. Signs do not matter, order does: areas are summed up in it.
TRIANGLES: dict[int, tuple[tuple[int, int, int], ...]] = {
    0b00000001: ((1, 1, 1),),
    0b00000011: ((2, 2, 0), (2, 2, 0)),
    0b00000110: ((1, 1, 1), (1, 1, 1)),
    0b00000111: ((4, 0, 0), (2, 2, 2), (1, 1, 1)),
    0b00001111: ((4, 0, 0), (4, 0, 0)),
    0b00010110: ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    0b00010111: ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    0b00011000: ((1, 1, 1), (1, 1, 1)),
    0b00011001: ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    0b00011011: ((1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2)),
    0b00011110: ((4, 0, 0), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    0b00111100: ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0)),
    0b01101001: ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
}


def hd95_by_lesion(
    true_shw: Labels, predicted_shw: Labels, matches: list[tuple[int, ...]], spacing_mm: Spacing | None
) -> Numbers:
    """HD95 of each true lesion and the predicted ones that match it, together; infinite where none does.

    matches: of each true lesion the numbers of these, from 0.
    """
    spacing = spacing_mm or SOME_SPACING
    true, predicted = surfaces(true_shw, spacing), surfaces(predicted_shw, spacing)
    trees: dict[tuple[int, ...], tuple[Surface, KDTree]] = {}  # one prediction may match a thousand lesions
    values = np.full(len(matches), np.inf)
    for lesion, numbers in enumerate(matches):
        if not numbers:
            continue
        if numbers not in trees:
            places, areas = (np.concatenate(parts) for parts in zip(*(predicted[n] for n in numbers), strict=True))
            trees[numbers] = (places, areas), KDTree(places, leafsize=32)
        (places, areas), tree = trees[numbers]
        there = _reach(tree.query(true[lesion][0])[0], true[lesion][1])
        back = _reach(KDTree(true[lesion][0], leafsize=32).query(places)[0], areas)
        values[lesion] = max(there, back)
    return values


def surfaces(labels_shw: Labels, spacing_mm: Spacing) -> list[Surface]:
    """The surface of each lesion, places in mm. Lesions touch by no face, edge or corner."""
    padded = np.pad(labels_shw, 1)
    lesion = padded > 0
    codes = np.zeros([length - 1 for length in padded.shape], np.uint8)
    for bit, corner in enumerate(_corners(padded.shape)):
        codes |= lesion[corner].view(np.uint8) << np.uint8(7 - bit)
    surfel = np.nonzero((codes > 0) & (codes < 255))
    # No two lesions have voxels at one point, or they would touch.
    number = np.max([padded[corner][surfel] for corner in _corners(padded.shape)], axis=0, initial=0)
    order = np.argsort(number, kind="stable")
    places = np.stack(surfel, axis=1)[order].astype(np.float64) * np.asarray(spacing_mm)
    areas = areas_of_codes(spacing_mm)[codes[surfel]][order]
    ends = np.cumsum(np.bincount(number, minlength=int(labels_shw.max(initial=0)) + 1))[1:]
    return list(zip(np.split(places, ends)[:-1], np.split(areas, ends)[:-1], strict=True))


@lru_cache(maxsize=64)
def areas_of_codes(spacing_mm: Spacing) -> Numbers:
    """The area in mm2 of the surfel of each of the 256 patterns."""
    slice_mm, row_mm, column_mm = spacing_mm
    faces = np.array([row_mm * column_mm, slice_mm * column_mm, slice_mm * row_mm])
    areas = np.zeros(256)
    for code, normals in TRIANGLES.items():
        voxels = np.unpackbits(np.uint8(code)).reshape(2, 2, 2)
        for axes in permutations(range(3)):
            area = 0.0
            for normal in normals:
                area += float(np.linalg.norm(np.array(normal)[list(axes)] / 8 * faces))
            turned = voxels.transpose(axes)
            for s, h, w in product((1, -1), repeat=3):
                turned_code = int(np.packbits(turned[::s, ::h, ::w])[0])
                areas[[turned_code, 255 - turned_code]] = area
    return areas


def _corners(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The voxels before and after each point between voxels, along each axis, in the order of np.packbits."""
    for place in product((0, 1), repeat=len(shape)):
        yield tuple(slice(first, length - 1 + first) for first, length in zip(place, shape, strict=True))


def _reach(distances: Numbers, areas: Numbers) -> float:
    """The smallest distance within which SHARE of the area lies."""
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order]) / areas[order].sum()
    return float(distances[order][min(int(np.searchsorted(share, SHARE)), len(order) - 1)])
