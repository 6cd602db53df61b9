"""Atlases of volumes that are made up, without a store, a checkpoint or torch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.evaluation.metrics import count
from segtrain.report.atlas import Atlas
from segtrain.report.card import Card, Names, make_card

CONTRASTS = ("t1", "FLAIR", "t1ce", "t2")
SLICES, SIDE_PX = 7, 64


def ball(radius: float, shift: float = 0.0) -> NDArray[np.bool_]:
    """[s, h, w]: a ball in the middle, moved to the right."""
    z, y, x = np.ogrid[:SLICES, :SIDE_PX, :SIDE_PX]
    middle = SIDE_PX / 2
    distance = ((z - SLICES // 2) * 6) ** 2 + (y - middle) ** 2 + (x - middle - shift) ** 2
    return np.asarray(distance < radius**2)


def drawn_card(patient: str, names: Names, shift: float = 3.0) -> Card:
    """A patient with three balls within each other, each predicted `shift` pixels to the right."""
    radii = (22.0, 14.0, 7.0)
    true_rshw = np.stack([ball(radius) for radius in radii])
    predicted_rshw = np.stack([ball(radius, shift) for radius in radii])
    grey = np.random.default_rng(0).normal(0, 0.1, (SLICES, SIDE_PX, SIDE_PX))
    # Each contrast has another region bright, so that they can be told apart.
    planes = [grey + 1 + bright for bright in (0.0, *true_rshw.astype(float))]
    store: Any = SimpleNamespace(
        contrasts=CONTRASTS,
        volume=lambda _: (np.stack(planes, axis=-1).astype(np.float16), None),
        patients={patient: SimpleNamespace(slice_numbers=tuple(range(1, SLICES + 1)))},
    )
    rows = []
    for region, predicted, true in zip(names.regions, predicted_rshw, true_rshw, strict=True):
        counts = count(predicted, true)
        columns = {key: str(value) for key, value in counts.columns(SLICES).items()}
        dsc = f"{counts.dsc:.6f}"
        rows.append({"patient": patient, "region": region, **columns, "dsc": dsc, "dsc_all_components": dsc})
    return make_card(store, rows, predicted_rshw, true_rshw, names)


def drawn_atlas(run: str, patients: tuple[str, ...], regions: tuple[str, ...]) -> Atlas:
    """An atlas of several regions and contrasts."""
    names = Names(CONTRASTS, regions)
    cards = [drawn_card(patient, names, shift=6.0 - place) for place, patient in enumerate(patients)]
    others = [name for name in CONTRASTS if name != "FLAIR"]
    return Atlas(run, epoch=3, checkpoint="step-00000030", sha256="0" * 64, settings="threshold=0.5", shown="FLAIR",
                 others=others, names=names, cards=cards)  # fmt: skip
