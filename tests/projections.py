"""A volume as a few numbers that any change moves, and that the last bits of a float do not."""

import numpy as np
from numpy.typing import NDArray

PROJECTIONS = 6


def projections(volume: NDArray[np.generic]) -> NDArray[np.float64]:
    """Sums of all voxels under fixed random signs, over the square root of their number.

    If each voxel changes by about d, so does each projection.
    """
    rng = np.random.Generator(np.random.Philox(key=[7, 7]))
    voxels = volume.astype(np.float64).ravel()
    signs = rng.integers(0, 2, (PROJECTIONS, voxels.size)) * 2.0 - 1
    return np.asarray(signs @ voxels / np.sqrt(voxels.size))
