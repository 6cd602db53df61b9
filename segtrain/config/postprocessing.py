"""Rules that make a mask of probabilities. Imports no torch."""

import math
from dataclasses import MISSING, dataclass, fields


@dataclass(frozen=True)
class Postprocessing:
    """What makes a mask of probabilities: a threshold, and the components that are kept."""

    threshold: float
    largest_component: bool
    min_component_voxels: int
    min_component_ml: float = 0.0
    min_component_share: float = 0.0

    def smallest_voxels(self, voxel_ml: float | None) -> int:
        """The size of the smallest component that is kept; voxel_ml: the volume of a voxel, where it is known."""
        if not self.min_component_ml:
            return self.min_component_voxels
        assert voxel_ml is not None, "a size in ml is refused where voxels have none"
        return max(self.min_component_voxels, _size(self.min_component_ml / voxel_ml))

    def smallest_beside(self, largest_voxels: int) -> int:
        """The size of the smallest component that is kept beside the largest, where that is not kept alone."""
        return _size(self.min_component_share * largest_voxels)


def _size(voxels: float) -> int:
    """The smallest whole size of at least so many; a component of exactly that size is kept, whatever the rounding."""
    return math.ceil(voxels * (1 - 1e-9))


POSTPROCESSING = tuple(field.name for field in fields(Postprocessing))  # keys of `evaluate`
# Those that were added, and their value in what was written before: they did nothing.
ADDED = {field.name: field.default for field in fields(Postprocessing) if field.default is not MISSING}
