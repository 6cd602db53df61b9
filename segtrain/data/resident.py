"""The slices of the training patients on the device that trains, gathered there by index.

A step then reads no file, copies no image from the host and waits for no thread. Legend: b batch, n slices of a window,
s all slices of all patients, h height, w width, c contrast.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import DataConfig
from segtrain.data.augment.batch import is_own
from segtrain.data.augment.draws import pinned, to
from segtrain.data.neighbours import Neighbours, neighbours_of
from segtrain.data.ragged import starts
from segtrain.data.sources.base import Check, no_check
from segtrain.data.store import Store
from segtrain.runtime.out_of_memory import is_out_of_memory
from segtrain.runtime.terminal import Progress

log = logging.getLogger(__name__)

SHARE = 0.125  # of the memory that is free on the GPU before training, which these slices may take
GB = 1e9


@dataclass(frozen=True)
class Resident:
    """Slices of patients one after the other: image_shwc float16, mask_shw uint8; `first` of each patient."""

    image_shwc: Tensor
    mask_shw: Tensor
    first: NDArray[np.int64]
    slices: NDArray[np.int64]  # of each patient
    offsets: NDArray[np.int64]  # [patient, n], from a slice to its neighbours

    @classmethod
    def read(
        cls,
        store: Store,
        patients: Sequence[str],
        neighbours: Neighbours,
        device: torch.device,
        advance: Callable[[], None] = no_check,
    ) -> "Resident":
        """Those of the patients, copied to the device; `advance` is called after each. Raises DataError."""
        slices = store.columns.slices[store.columns.rows(patients)]
        spacings_mm = store.columns.spacings_of(patients)
        first = starts(slices)
        size, contrasts = store.size_px, len(store.contrasts)
        image = torch.empty((int(slices.sum()), size, size, contrasts), dtype=torch.float16, device=device)
        mask = torch.empty(image.shape[:3], dtype=torch.uint8, device=device)
        offsets = []
        for number, patient in enumerate(patients):
            image_shwc, mask_shw = store.volume(patient)
            own = slice(first[number], first[number] + slices[number])
            image[own].copy_(torch.from_numpy(image_shwc))
            mask[own].copy_(torch.from_numpy(mask_shw))
            offsets.append(neighbours.offsets(spacings_mm[patient], f"patient {patient}"))
            advance()
        return cls(image, mask, first, slices, np.stack(offsets))

    def gather(self, patient: NDArray[np.int64], number: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Slices `number` of the patients: image [b, h, w, c * n], as from `window`, and mask [b, h, w]."""
        windows = [
            self.first[p] + neighbours_of(z, int(self.slices[p]), self.offsets[p])
            for p, z in zip(patient, number, strict=True)
        ]
        rows = self._index(np.stack(windows))
        image = self.image_shwc.index_select(0, rows.flatten())
        image = image.view(*rows.shape, *image.shape[1:]).permute(0, 2, 3, 1, 4).flatten(3)
        return image, self.mask_shw.index_select(0, rows[:, rows.shape[1] // 2])

    def _index(self, rows: NDArray[np.int64]) -> Tensor:
        index, device = torch.from_numpy(rows), self.image_shwc.device
        return to(device)(pinned(index) if device.type == "cuda" else index)


def resident(
    store: Store,
    patients: Sequence[str],
    cfg: DataConfig,
    device: torch.device,
    check: Check = no_check,
    quiet: bool = True,
) -> Resident | None:
    """The patients' slices on the device, where `data.resident` says so or they fit; None: each step reads its own.

    `check` is called after each patient and may raise. Shows progress unless `quiet`. Raises DataError.
    """
    wanted = cfg.resident
    if wanted is None:
        wanted = device.type == "cuda" and not is_own(cfg.augment) and _fits(store, patients, device)
    if not wanted:
        return None
    try:
        with Progress("load", total=len(patients), unit="patients", quiet=quiet) as bar:

            def advance() -> None:
                bar.advance(1)
                check()

            slices = Resident.read(store, patients, Neighbours.of(cfg), device, advance)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = " ".join(str(error).split())[:200]
    else:
        log.info("data: %d slices of %d patients lie on the %s", len(slices.mask_shw), len(patients), device.type)
        return slices
    # Outside of the except clause: the error's traceback refers to what was allocated.
    log.warning(
        "data: each step reads its slices from the store: there is too little memory on the %s for all of them (%s); "
        "data.resident=false does not try",
        device.type,
        message,
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def size_bytes(store: Store, patients: Sequence[str]) -> int:
    """What the patients' images and masks take."""
    slices = sum(store.columns.slices_of(patients).values())
    return slices * store.size_px**2 * (2 * len(store.contrasts) + 1)


def _fits(store: Store, patients: Sequence[str], device: torch.device) -> bool:
    """Whether they take no more than SHARE of what is free; says so where they do."""
    needed, free = size_bytes(store, patients), torch.cuda.mem_get_info(device)[0]
    if needed > SHARE * free:
        log.info(
            "data: each step reads its slices from the store: all of them take %.1f GB, more than an eighth of the "
            "%.1f GB that are free on the GPU (data.resident)",
            needed / GB,
            free / GB,
        )
    return needed <= SHARE * free
