"""Batches of one rank: gathered on the device where all slices lie there, else read ahead of time from the store.

A background thread reads them, or workers that augment them.

Legend: b this rank's share of the global batch, h height, w width, c channel.
"""

import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtrain.config import DataConfig
from segtrain.data.augment.ahead import Ahead, Asked, Place
from segtrain.data.augment.batch import draw
from segtrain.data.augment.draws import Contrasts, Draws, empty, pinned
from segtrain.data.augment.mix import Mix, mix_draws
from segtrain.data.augment.own import Recipe
from segtrain.data.neighbours import Neighbours, window
from segtrain.data.order import AUGMENT_STREAM, PARTNER_STREAM, EpochPlan, Order
from segtrain.data.resident import Resident, resident
from segtrain.data.sources.base import Check, no_check
from segtrain.data.store import Store
from segtrain.runtime.world import CPU

LEAVE_S = 5.0  # for the thread, which may be waiting for the store
AHEAD = 2  # batches that are gathered and wait


@dataclass(frozen=True)
class Batch:
    """image_bhwc: float16, mask_bhw: uint8, and the draws of their augmentation.

    On the CPU, pinned for a GPU, unless the slices are on the device already.

    After an augmentation of the user's own, image_bhwc is float32, and there are no draws.
    """

    image_bhwc: Tensor
    mask_bhw: Tensor
    draws: Draws | None
    mix: Mix | None


@dataclass(frozen=True)
class _Mixed:
    """Which of this rank's samples of a step are mixed with a partner, and how; see `mix_draws`."""

    place: NDArray[np.int64]
    paste: NDArray[np.float32]
    own_share: NDArray[np.float32]


@dataclass(frozen=True)
class _AskedBatch:
    """A batch whose samples, and then their partners, are being augmented by code of the user's own."""

    asked: Asked
    mixed: _Mixed | None


class Feed:
    """This rank's batches from any step of the run on. A context manager: leaving it ends thread and workers."""

    def __init__(
        self,
        store: Store,
        patients: tuple[str, ...],
        order: Order,
        cfg: DataConfig,
        rank: int,
        world_size: int,
        device: torch.device = CPU,
        own: Recipe | None = None,
    ) -> None:
        """device: that trains. own: the augmentation, where it is one of the user's own."""
        self.store = store
        self.patients = patients
        self.order = order
        self.cfg = cfg
        self.device = device
        self.quiet = rank > 0
        self._pin = device.type == "cuda"
        self._resident: Resident | None = None
        self.columns = order.columns(rank, world_size)
        self._contrasts = Contrasts(store.contrasts, cfg.missing)
        self._neighbours = Neighbours.of(cfg)
        self._own = Ahead(own, store, self._neighbours, cfg.augment_workers) if own else None
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None
        self._planned: tuple[int, EpochPlan] | None = None  # the current epoch

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        if self._own is not None:
            self._own.close()
        if self._thread is not None:
            self._thread.join(LEAVE_S)

    def load(self, check: Check = no_check) -> None:
        """Copy the slices to the device, where `data.resident` says so or they fit; `check` is called meanwhile.

        Raises DataError, and what `check` raises.
        """
        self._resident = resident(self.store, self.patients, self.cfg, self.device, check, self.quiet)

    def release(self) -> bool:
        """Whether slices lay on the device; they no longer do, and from now on each step reads its own."""
        had, self._resident = self._resident is not None, None
        if had and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return had

    def batches(self, first_step: int, end_step: int) -> Iterator[Batch]:
        """The batches of steps first_step <= step < end_step (counted over the run from 0)."""
        if self._own is not None:
            self._own.start()
        # Where the own augmentation draws from generators that the step draws from too: one after the other.
        in_turn = self._own is not None and not self._own.count
        for step in range(first_step, end_step):
            if not (self._resident or in_turn):
                yield from self._read_ahead(step, end_step)
                return
            yield self.gather(step)

    def _read_ahead(self, first_step: int, end_step: int) -> Iterator[Batch]:
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=AHEAD)
        self._thread = threading.Thread(
            target=self._gather_all, args=(first_step, end_step, ready), name="feed", daemon=True
        )
        self._thread.start()
        for _ in range(first_step, end_step):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _gather_all(self, first_step: int, end_step: int, ready: "queue.Queue[Batch | BaseException]") -> None:
        """In the thread: gather the batches into the queue, until they are all there or the feed is left."""
        try:
            for batch in self._gathered(first_step, end_step):
                if not self._put(batch, ready):
                    return
        except BaseException as error:  # noqa: BLE001  the loop raises it
            self._put(error, ready)

    def _put(self, item: Batch | BaseException, ready: "queue.Queue[Batch | BaseException]") -> bool:
        """Wait for a place in the queue; False: the feed was left."""
        while not self._leave.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def _gathered(self, first_step: int, end_step: int) -> Iterator[Batch]:
        if self._own is None:
            yield from map(self.gather, range(first_step, end_step))
            return
        asked: deque[_AskedBatch] = deque()
        for step in range(first_step, end_step):
            asked.append(self._ask(self._own, step))
            if len(asked) > AHEAD:
                yield self._collect(self._own, asked.popleft())
        yield from (self._collect(self._own, batch) for batch in asked)

    def gather(self, step: int) -> Batch:
        """One batch: a pure function of the step."""
        if self._own is not None:
            self._own.start()
            return self._collect(self._own, self._ask(self._own, step))
        plan, row = self._plan(step)
        image, mask = self._read(plan, row, np.arange(self.columns.start, self.columns.stop))
        return Batch(image, mask, self._draws(step), self._mix(plan, row, step))

    def _plan(self, step: int) -> tuple[EpochPlan, int]:
        """The plan of the step's epoch, and the step's row in it."""
        epoch, row = divmod(step, self.order.steps_per_epoch)
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self.order.plan(epoch)
        return self._planned[1], row

    def _ask(self, own: Ahead, step: int) -> _AskedBatch:
        """Have the step's samples augmented, and their partners in copy-paste and mixup, each by itself."""
        plan, row = self._plan(step)
        columns, positions = np.arange(self.columns.start, self.columns.stop), self._positions(step)
        places = [self._place(plan, row, *one, AUGMENT_STREAM) for one in zip(columns, positions, strict=True)]
        mixed = self._mixed(step)
        if mixed is not None:
            next_row = (row + 1) % self.order.steps_per_epoch
            pairs = zip(columns[mixed.place], positions[mixed.place], strict=True)
            places += [self._place(plan, next_row, *one, PARTNER_STREAM) for one in pairs]
        return _AskedBatch(own.ask(places), mixed)

    def _place(self, plan: EpochPlan, row: int, column: int, position: int, stream: int) -> Place:
        patient = self.patients[plan.patient[row, column]]
        return Place(patient, int(plan.slice[row, column]), int(position), stream)

    def _collect(self, own: Ahead, batch: _AskedBatch) -> Batch:
        image, mask = self._empty(len(batch.asked.places), torch.float32)
        own.fill(batch.asked, image.numpy(), mask.numpy())
        if batch.mixed is None:
            return Batch(image, mask, None, None)
        share = self.columns.stop - self.columns.start
        mix = self._made_mix(batch.mixed, image[share:], mask[share:])
        return Batch(image[:share], mask[:share], None, mix)

    def _empty(self, samples: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        size = self.store.size_px
        channels = len(self.store.contrasts) * (2 * self.cfg.neighbours + 1)
        image = empty((samples, size, size, channels), dtype, self._pin)
        return image, empty((samples, size, size), torch.uint8, self._pin)

    def _read(self, plan: EpochPlan, row: int, columns: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The samples of some columns of a batch."""
        if self._resident:
            return self._resident.gather(plan.patient[row, columns], plan.slice[row, columns])
        image, mask = self._empty(len(columns), torch.float16)
        image_bhwc, mask_bhw = image.numpy(), mask.numpy()
        for place, column in enumerate(columns):
            patient, number = self.patients[plan.patient[row, column]], int(plan.slice[row, column])
            one = slice(place, place + 1)
            if self.cfg.neighbours:
                image_bhwc[place], mask_bhw[place] = window(self.store, patient, number, self._neighbours)
            else:
                self.store.read(patient, number, image_bhwc[one], mask_bhw[one])
        return image, mask

    def _positions(self, step: int) -> NDArray[np.int64]:
        first = step * self.order.global_batch
        return np.arange(first + self.columns.start, first + self.columns.stop)

    def _draws(self, step: int) -> Draws | None:
        draws = draw(self.cfg.augment, self.order.seed, self._positions(step), self._contrasts)
        return draws.moved(pinned) if draws is not None and self._pin else draws

    def _mix(self, plan: EpochPlan, row: int, step: int) -> Mix | None:
        """Copy-paste and mixup with samples of the epoch's next batch, in the same column.

        A column is of one lane, so the partner is a patient of the same rank at any world size.
        """
        mixed = self._mixed(step)
        if mixed is None:
            return None
        image, mask = self._read(plan, (row + 1) % self.order.steps_per_epoch, self.columns.start + mixed.place)
        return self._made_mix(mixed, image, mask)

    def _mixed(self, step: int) -> _Mixed | None:
        """The mixed samples of a step; None: there are none."""
        if not (self.cfg.copy_paste or self.cfg.mixup):
            return None
        paste, own_share = mix_draws(self.order.seed, self._positions(step), self.cfg.copy_paste, self.cfg.mixup)
        place = np.flatnonzero((paste > 0) | (own_share < 1))
        return _Mixed(place, paste[place], own_share[place]) if len(place) else None

    def _made_mix(self, mixed: _Mixed, image: Tensor, mask: Tensor) -> Mix:
        place, paste, own_share = map(torch.from_numpy, (mixed.place, mixed.paste, mixed.own_share))
        mix = Mix(place, image, mask, paste, own_share)
        return mix.moved(pinned) if self._pin else mix
