"""Batches of one rank, read from the store ahead of time by a background thread.

Legend: b this rank's share of the global batch, h height, w width, c channel.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import DataConfig
from segtrain.data.augment.batch import draw
from segtrain.data.augment.draws import Draws
from segtrain.data.augment.mix import Mix, mix_draws
from segtrain.data.order import EpochPlan, Order
from segtrain.data.sources import CONTRASTS
from segtrain.data.store import Store, as_channels, neighbours_of

LEAVE_S = 5.0  # for the thread, which may be waiting for the store
AHEAD = 2  # batches that are gathered and wait


@dataclass(frozen=True)
class Batch:
    """image_bhwc: float16, mask_bhw: uint8, and the draws of their augmentation; on the CPU, pinned on request."""

    image_bhwc: Tensor
    mask_bhw: Tensor
    draws: Draws | None
    mix: Mix | None


class Feed:
    """This rank's batches from any step of the run on. A context manager: leaving it ends the thread."""

    def __init__(
        self,
        store: Store,
        patients: tuple[str, ...],
        order: Order,
        cfg: DataConfig,
        rank: int,
        world_size: int,
        pin: bool,
    ) -> None:
        self.store = store
        self.patients = patients
        self.order = order
        self.cfg = cfg
        self.pin = pin
        self.columns = order.columns(rank, world_size)
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None
        self._planned: tuple[int, EpochPlan] | None = None  # the current epoch

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        if self._thread is not None:
            self._thread.join(LEAVE_S)

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
            except BaseException as error:  # noqa: BLE001  the loop raises it
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
        image, mask = self._read(plan, row, np.arange(self.columns.start, self.columns.stop))
        return Batch(image, mask, self._draws(step), self._mix(plan, row, step))

    def _read(self, plan: EpochPlan, row: int, columns: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The samples of some columns of a batch, from the store."""
        size, channels = self.store.size_px, self.cfg.channels
        image = torch.empty((len(columns), size, size, channels), dtype=torch.float16, pin_memory=self.pin)
        mask = torch.empty((len(columns), size, size), dtype=torch.uint8, pin_memory=self.pin)
        image_bhwc, mask_bhw = image.numpy(), mask.numpy()
        for place, column in enumerate(columns):
            patient, number = self.patients[plan.patient[row, column]], int(plan.slice[row, column])
            one = slice(place, place + 1)
            if self.cfg.neighbours:
                image_bhwc[place], mask_bhw[place] = self._window(patient, number)
            else:
                self.store.read(patient, number, image_bhwc[one], mask_bhw[one])
        return image, mask

    def _window(self, patient: str, number: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """A slice with its neighbours as channels, and its mask: one read, since they are contiguous."""
        numbers = neighbours_of(number, self.store.patients[patient].slices, self.cfg.neighbours)
        first, size = int(numbers[0]), self.store.size_px
        shape = int(numbers[-1]) - first + 1, size, size
        image_shwc, mask_shw = np.empty((*shape, len(CONTRASTS)), np.float16), np.empty(shape, np.uint8)
        self.store.read(patient, first, image_shwc, mask_shw)
        return as_channels(image_shwc[numbers - first]), mask_shw[number - first]

    def _positions(self, step: int) -> NDArray[np.int64]:
        first = step * self.order.global_batch
        return np.arange(first + self.columns.start, first + self.columns.stop)

    def _draws(self, step: int) -> Draws | None:
        draws = draw(self.cfg.augment, self.order.seed, self._positions(step))
        return draws.moved(Tensor.pin_memory) if draws is not None and self.pin else draws

    def _mix(self, plan: EpochPlan, row: int, step: int) -> Mix | None:
        """Copy-paste and mixup with samples of the epoch's next batch, in the same column.

        A column is of one lane, so the partner is a patient of the same rank at any world size.
        """
        if not (self.cfg.copy_paste or self.cfg.mixup):
            return None
        paste, own_share = mix_draws(self.order.seed, self._positions(step), self.cfg.copy_paste, self.cfg.mixup)
        place = np.flatnonzero((paste > 0) | (own_share < 1))
        if not len(place):
            return None
        image, mask = self._read(plan, (row + 1) % self.order.steps_per_epoch, self.columns.start + place)
        paste_k, own_share_k = torch.from_numpy(paste[place]), torch.from_numpy(own_share[place])
        mix = Mix(torch.from_numpy(place), image, mask, paste_k, own_share_k)
        return mix.moved(Tensor.pin_memory) if self.pin else mix
