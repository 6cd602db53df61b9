"""Regions as one map of labels, in the numbers that the data's own masks use.

Legend: r region.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def label_map(predicted: NDArray[np.bool_], regions: Mapping[str, Sequence[int]]) -> NDArray[np.uint8 | np.uint16]:
    """The label of each voxel of regions [r, ...]; 0 where there is none.

    A voxel has a label where all of the label's regions are predicted. Where that is so of several labels, the one in
    most regions counts, and of these the one that is listed first. Read by the same regions, the map of a truth is
    that truth.
    """
    labels = list(dict.fromkeys(label for of_region in regions.values() for label in of_region))
    inside = {label: [label in of_region for of_region in regions.values()] for label in labels}
    painted = np.zeros(predicted.shape[1:], np.uint8 if max(labels) < 1 << 8 else np.uint16)
    for label in sorted(labels, key=lambda label: (sum(inside[label]), -labels.index(label))):
        painted[predicted[inside[label]].all(axis=0)] = label
    return painted
