"""The slice at each position of a run: a function of (seed, epoch, position) (L2), sharded by patient (L3).

Lanes make both laws hold at once. Each epoch deals the training patients anew to a fixed number of lanes, as many as
the global batch and the number of patients allow. A batch has the same number of samples from each lane, in lane order.
This does not depend on the world size: of W ranks, rank r reads the r-th of W equal parts of every batch, which is the
r-th part of the lanes. So ranks never share a patient within an epoch, and batches are the same for every W.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

from segtrain.config import Config, SamplingName
from segtrain.data import world_sizes
from segtrain.data.neighbours import refuse_unknown_distances
from segtrain.data.preprocess import slice_weights
from segtrain.data.ragged import Ragged, starts
from segtrain.data.splits import Split, make_split
from segtrain.data.store import Store
from segtrain.errors import ConfigError, DataError

MOST_REPEATS = 16  # of a slice within one global batch, on average
COVERAGE = 0.95  # the least share of all slices in an epoch of uniform sampling
# Keep the draws of one seed apart.
ORDER_STREAM, AUGMENT_STREAM, MIX_STREAM, PARTNER_STREAM, CONSTRUCTION_STREAM = range(1, 6)


def generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    """A counter-based generator: equal draws for equal arguments, independent ones otherwise."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, counter, 0, 0]))


@dataclass(frozen=True)
class EpochPlan:
    """patient, slice: int64 [step, global batch], indices into the order's patients and into a patient's slices."""

    patient: NDArray[np.int64]
    slice: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The order of a run's samples. `areas`: lesion pixels per slice, for each training patient (sorted by id).

    Only slices that are known in part are drawn, and only these are in `areas`. `known`: their numbers among all of a
    patient's slices; None: they are all. `lesion_free`: see `slice_weights`.
    """

    areas: Sequence[Sequence[int]]
    sampling: SamplingName
    global_batch: int
    seed: int
    known: Sequence[Sequence[int]] | None = None
    lesion_free: float = 0.1

    @cached_property
    def slices(self) -> NDArray[np.int64]:
        """Slices of each patient that may be drawn."""
        return Ragged.of(self.areas).counts

    @cached_property
    def steps_per_epoch(self) -> int:
        """Lesion: as many draws as there are slices; uniform: enough to visit `COVERAGE` of them."""
        total = int(self.slices.sum())
        if self.sampling == "lesion":
            return max(1, total // self.global_batch)
        return min(-(-int(np.ceil(COVERAGE * total)) // self.global_batch), self._most_steps(self.lanes))

    @cached_property
    def lanes(self) -> int:
        """As many lanes as patients and global batch allow.

        Lesion sampling draws equally often from each lane, so a lane has at most one and a half times the patients of
        another: in one epoch no patient is much likelier than another. Uniform sampling: as many as COVERAGE allows.
        """
        patients, slices = len(self.areas), int(self.slices.sum())
        if self.global_batch > MOST_REPEATS * slices:
            raise ConfigError(
                f"train.global_batch={self.global_batch} is more than {MOST_REPEATS} times the {slices} training "
                "slices; use a smaller one"
            )
        if self.sampling == "lesion":
            return world_sizes.lesion_lanes(patients, self.global_batch)
        fitting = [d for d in range(patients, 0, -1) if self.global_batch % d == 0]
        target = COVERAGE * slices
        covered = {lanes: self._most_steps(lanes) * self.global_batch for lanes in fitting}
        best = max(covered.values())
        lanes = next(lanes for lanes in fitting if covered[lanes] >= min(target, best))
        if not covered[lanes]:
            raise ConfigError(
                f"train.global_batch={self.global_batch} is more than the {self.slices.sum()} training slices; "
                "use a smaller one or data.sampling=lesion"
            )
        return lanes

    def columns(self, rank: int, world_size: int) -> slice:
        """The columns of every batch that `rank` reads. Raises ConfigError when the world size does not fit."""
        if self.lanes % world_size:
            problem = (
                f"train.global_batch={self.global_batch} cannot be shared by {world_size} ranks"
                if self.global_batch % world_size
                else f"{len(self.areas)} training patients make {self.lanes} lanes of {self.global_batch} samples, "
                f"which {world_size} ranks cannot divide without sharing a patient"
            )
            raise ConfigError(f"{problem}; {self._remedy(world_size)}")
        share = self.global_batch // world_size
        return slice(rank * share, (rank + 1) * share)

    def _remedy(self, ranks: int) -> str:
        """The nearest batches, ranks and patients that fit, each with the other two as they are."""

        def batch_fits(batch: int) -> bool:
            try:
                return replace(self, global_batch=batch).lanes % ranks == 0
            except ConfigError:  # there are too few slices
                return False

        batch, patients = self.global_batch, len(self.areas)
        by_number = self.sampling == "lesion"  # of the patients, not by their slices
        return world_sizes.remedy(
            {
                "set train.global_batch to {}": world_sizes.fitting_batches(batch, ranks, batch_fits),
                "use {} ranks": world_sizes.fitting_ranks(ranks, self.lanes),
                "train on {} patients": world_sizes.fitting_patients(patients, batch, ranks) if by_number else [],
            }
        )

    def plan(self, epoch: int) -> EpochPlan:
        """Every sample of an epoch (counted from 0), in order."""
        rng = generator(self.seed, ORDER_STREAM, epoch)
        plan = self._draw_lesion(rng) if self.sampling == "lesion" else self._draw_uniform(rng)
        if self.known is None:
            return plan
        numbers = Ragged.of(self.known).flat
        return replace(plan, slice=numbers[self._first[plan.patient] + plan.slice])

    def patients_at(self, step: int) -> set[int]:
        """The patients of the whole global batch of a step."""
        epoch, row = divmod(step, self.steps_per_epoch)
        return set(self.plan(epoch).patient[row].tolist())

    def _draw_lesion(self, rng: np.random.Generator) -> EpochPlan:
        """A patient of the lane uniformly, then a slice by the reference's weights."""
        order = rng.permutation(len(self.areas))
        lanes = [order[lane :: self.lanes] for lane in range(self.lanes)]
        width = self.global_batch // self.lanes
        which, where = rng.random((2, self.steps_per_epoch, self.global_batch))
        patient = np.empty(which.shape, np.int64)
        for lane, members in enumerate(lanes):
            columns = slice(lane * width, (lane + 1) * width)
            patient[:, columns] = members[(which[:, columns] * len(members)).astype(np.int64)]
        return EpochPlan(patient, self._slices_drawn(patient, where))

    def _slices_drawn(self, patient: NDArray[np.int64], where: NDArray[np.float64]) -> NDArray[np.int64]:
        """The slice of each draw: how many of the patient's cumulative weights, but for the last, are no larger."""
        low, high = np.zeros_like(patient), self.slices[patient] - 1
        first = self._first[patient]
        for _ in range(int(self.slices.max()).bit_length()):  # a binary search, of all draws at once
            middle = (low + high) // 2
            right = (low < high) & (self._cumulative_weights[first + middle] <= where)
            low = np.where(right, middle + 1, low)
            high = np.where(right, high, middle)
        return low

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        return starts(self.slices)

    @cached_property
    def _cumulative_weights(self) -> NDArray[np.float64]:
        """The running sums of each patient's weights, one patient after the other."""
        areas = Ragged.of(self.areas).flat
        cumulative = np.empty(len(areas))
        for slices in np.unique(self.slices):
            place = self._first[self.slices == slices][:, None] + np.arange(slices)
            cumulative[place] = np.cumsum(slice_weights(areas[place], self.lesion_free), axis=-1)
        return cumulative

    def _draw_uniform(self, rng: np.random.Generator) -> EpochPlan:
        """Each slice at most once; a lane with too many slices drops some at random."""
        width = self.global_batch // self.lanes
        needed = self.steps_per_epoch * width
        patient = np.empty((self.steps_per_epoch, self.global_batch), np.int64)
        number = np.empty_like(patient)
        for lane, members in enumerate(self._balanced_deal(rng, needed)):
            owner = np.repeat(members, self.slices[members])
            pool = np.stack(
                [owner, np.arange(len(owner)) - np.repeat(starts(self.slices[members]), self.slices[members])]
            )
            drawn = pool[:, rng.permutation(pool.shape[1])[:needed]].reshape(2, self.steps_per_epoch, width)
            columns = slice(lane * width, (lane + 1) * width)
            patient[:, columns], number[:, columns] = drawn
        return EpochPlan(patient, number)

    def _balanced_deal(self, rng: np.random.Generator, needed: int) -> list[list[int]]:
        """A random deal in which every lane has `needed` slices; without one, the fixed deal with permuted lanes."""
        for _ in range(20):
            # Largest first to the emptiest lane; jitter makes each deal another one.
            jitter = self.slices * rng.uniform(0.7, 1.3, len(self.slices))
            deal = deal_evenly(self.slices, np.argsort(-jitter, kind="stable"), self.lanes)
            if min(int(self.slices[lane].sum()) for lane in deal) >= needed:
                break
        else:
            deal = deal_evenly(self.slices, np.argsort(-self.slices, kind="stable"), self.lanes)
        return [deal[lane] for lane in rng.permutation(self.lanes)]

    def _most_steps(self, lanes: int) -> int:
        deal = deal_evenly(self.slices, np.argsort(-self.slices, kind="stable"), lanes)
        return min(int(self.slices[lane].sum()) for lane in deal) // (self.global_batch // lanes)


def make_order(cfg: Config, store: Store, split: Split) -> Order:
    """The order of a run's samples.

    Raises ConfigError when copy-paste or mixup have no next step to take from, DataError for a patient without a known
    voxel.
    """
    columns = store.columns
    rows = columns.rows(split.train)
    every = columns.areas.taken(rows)
    unlabelled = Ragged(columns.unlabelled.astype(np.int64), columns.areas.counts).taken(rows).flat > 0
    areas = every.without(unlabelled)
    if strangers := [patient for patient, count in zip(split.train, areas.counts.tolist(), strict=True) if not count]:
        raise DataError(
            f"patient {strangers[0]}: all voxels of its mask are ignored ({len(strangers)} such patients), so there is "
            "nothing to train on; leave it out of the data, or name a split without it as data.split_file"
        )
    order = Order(
        areas,
        cfg.data.sampling,
        cfg.train.global_batch,
        cfg.seed,
        Ragged(every.place, every.counts).without(unlabelled) if unlabelled.any() else None,
        cfg.data.lesion_free,
    )
    slices = int(order.slices.sum())
    for key in ("copy_paste", "mixup"):
        if getattr(cfg.data, key) and order.steps_per_epoch == 1:
            raise ConfigError(
                f"data.{key}={getattr(cfg.data, key)} takes partners from the epoch's next step, and with "
                f"train.global_batch={cfg.train.global_batch} an epoch of {slices} slices has one step; set "
                f"train.global_batch to {max(1, slices // 4)} or less, or data.{key}=0"
            )
    return order


def plan_order(cfg: Config, store: Store, world_size: int) -> tuple[Split, Order]:
    """Split and order of a run. Raises DataError or ConfigError: what does not fit the data, or so many ranks."""
    split = make_split(cfg.data, store)
    refuse_unknown_distances(cfg.data, store, (*split.train, *split.validation))
    order = make_order(cfg, store, split)
    order.columns(0, world_size)
    return split, order


def deal_evenly(sizes: NDArray[np.int64], order: NDArray[np.int64], hands: int) -> list[list[int]]:
    """Deal items in `order`, each to the hand with the least so far; then swap pairs to even out the extremes."""
    dealt: list[list[int]] = [[] for _ in range(hands)]
    emptiest = [(0, hand) for hand in range(hands)]
    for item, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        total, hand = emptiest[0]
        dealt[hand].append(item)
        heapreplace(emptiest, (total + size, hand))
    totals = np.array([total for total, _ in sorted(emptiest, key=lambda one: one[1])])
    for _ in range(len(order)):
        low, high = int(totals.argmin()), int(totals.argmax())
        swap = _best_swap(sizes[dealt[high]], sizes[dealt[low]], int(totals[high] - totals[low]))
        if swap is None:
            break
        i, j, gain = swap
        dealt[high][i], dealt[low][j] = dealt[low][j], dealt[high][i]
        totals[high] -= gain
        totals[low] += gain
    return dealt


def _best_swap(large: NDArray[np.int64], small: NDArray[np.int64], gap: int) -> tuple[int, int, int] | None:
    """The places of the two items whose swap makes two hands most alike, and by how much; None: no swap does.

    Of several the first in `large`, then in `small`. By sizes, of which there are few.
    """
    if not gap:
        return None
    (larger, i), (smaller, j) = (np.unique(hand, return_index=True) for hand in (large, small))
    gain = larger[:, None] - smaller
    rest = np.where((gain > 0) & (gain < gap), np.abs(gain * 2 - gap), gap)
    if rest.min(initial=gap) >= gap:
        return None
    best = [(int(i[a]), int(j[b]), int(gain[a, b])) for a, b in np.argwhere(rest == rest.min())]
    return min(best)
