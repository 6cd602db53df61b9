"""Batches of one rank, read from the store ahead of time by a background thread.

Legend: b this rank's share of the global batch, h height, w width, c channel.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segtrain.config import AugmentName
from segtrain.data.augment import AUGMENTATIONS
from segtrain.data.sampler import EpochPlan, Order
from segtrain.data.store import Store

AHEAD = 2  # batches gathered before they are asked for


@dataclass(frozen=True)
class Batch:
    """image_bhwc: float16, mask_bhw: uint8, affines: float32 [b, 2, 3] or None; on the CPU, pinned when asked for."""

    image_bhwc: Tensor
    mask_bhw: Tensor
    affines: Tensor | None


class Feed:
    """This rank's batches from any step of the run on. Use as a context: leaving it ends the thread."""

    def __init__(
        self,
        store: Store,
        patients: tuple[str, ...],
        order: Order,
        augment: AugmentName,
        rank: int,
        world_size: int,
        pin: bool,
    ) -> None:
        self.store, self.patients, self.order, self.augment, self.pin = store, patients, order, augment, pin
        self.columns = order.columns(rank, world_size)
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None
        self._planned: tuple[int, EpochPlan] | None = None  # the epoch that is being gathered

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        if self._thread is not None:
            self._thread.join()

    def batches(self, first_step: int, end_step: int) -> Iterator[Batch]:
        """The batches of steps first_step <= step < end_step (counted over the run from 0)."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=AHEAD)

        def put(item: Batch | BaseException) -> bool:
            while not self._leave.is_set():
                try:
                    ready.put(item, timeout=0.2)
                except queue.Full:
                    continue
                return True
            return False

        def gather_all() -> None:
            try:
                for step in range(first_step, end_step):
                    if not put(self.gather(step)):
                        return
            except BaseException as error:  # noqa: BLE001  handed to the loop, which raises it
                put(error)

        self._thread = threading.Thread(target=gather_all, name="feed", daemon=True)
        self._thread.start()
        for _ in range(first_step, end_step):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def gather(self, step: int) -> Batch:
        """One batch: a pure function of the step."""
        epoch, row = divmod(step, self.order.steps_per_epoch)
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self.order.plan(epoch)
        plan = self._planned[1]
        patient, chosen = plan.patient[row, self.columns], plan.slice[row, self.columns]
        size = self.store.size_px
        image = torch.empty((len(patient), size, size, 3), dtype=torch.float16, pin_memory=self.pin)
        mask = torch.empty((len(patient), size, size), dtype=torch.uint8, pin_memory=self.pin)
        image_bhwc, mask_bhw = image.numpy(), mask.numpy()
        for place, (index, number) in enumerate(zip(patient, chosen, strict=True)):
            one = slice(place, place + 1)
            self.store.read(self.patients[index], number, image_bhwc[one], mask_bhw[one])
        return Batch(image, mask, self._affines(step))

    def patients_at(self, step: int) -> list[str]:
        """The patients of the whole global batch of a step, for messages."""
        epoch, row = divmod(step, self.order.steps_per_epoch)
        return sorted({self.patients[index] for index in self.order.plan(epoch).patient[row]})

    def _affines(self, step: int) -> Tensor | None:
        make = AUGMENTATIONS[self.augment]
        if make is None:
            return None
        first = step * self.order.global_batch
        positions = np.arange(first + self.columns.start, first + self.columns.stop)
        affines = torch.from_numpy(make(self.order.seed, positions))
        return affines.pin_memory() if self.pin else affines
