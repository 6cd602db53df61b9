"""From the prepared geometry back to that of the source.

Apart from `preprocess.py`, whose text is part of a store's key. Legend: s slice, h height, w width.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from segtrain.data.preprocess import Geometry


def to_source(prepared_shw: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A prepared volume where it lies in its source: the nearest pixel of each, zero where preparation cut off.

    Exact inside the crop where the padded crop has `size_px` already; else true up to half a pixel at a boundary.
    """
    (z0, z1), (y0, y1), (x0, x1) = geometry.box
    (top, _), (left, _) = geometry.pad
    side = y1 - y0 + sum(geometry.pad[0])
    nearest = ((np.arange(side) + 0.5) * geometry.size_px / side).astype(int)
    rows, columns = nearest[top : top + y1 - y0], nearest[left : left + x1 - x0]
    source = np.zeros(geometry.source_shape, prepared_shw.dtype)
    source[z0:z1, y0:y1, x0:x1] = prepared_shw[:, rows[:, None], columns[None, :]]
    return source


def geometry_of(tree: Mapping[str, Any]) -> Geometry:
    """The geometry that a store's index holds of a patient."""
    return TypeAdapter(Geometry).validate_python(tree)
