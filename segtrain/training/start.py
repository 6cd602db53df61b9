"""The one start sequence: what does not fit is refused, then store, split, order, network, loss and engine.

`prepare` does it for a training, on all ranks in step, and writes nothing but the store. `Rehearsal` does it dry, for
runs that other processes will train.
"""

import hashlib
import json
import socket
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from segtrain.config import LGG_CONTRASTS, Config, DataConfig
from segtrain.data.augment.trial import Tried
from segtrain.data.label_table import log_labels
from segtrain.data.neighbours import log_distances
from segtrain.data.order import Order, plan_order
from segtrain.data.prepare import ensure_store, log_left_out
from segtrain.data.splits import Split
from segtrain.data.store import Store
from segtrain.data.store_note import StoreNote
from segtrain.engines.engine import Engine
from segtrain.engines.schedules import Schedule, make_schedule
from segtrain.errors import ConfigError, DataError, LaunchError, SegtrainError
from segtrain.evaluation.units import refuse_unknown_spacing
from segtrain.losses.loss import Loss
from segtrain.run import Run
from segtrain.runtime.stop import Stop
from segtrain.runtime.world import World, device_of
from segtrain.training import build
from segtrain.training.auto_compile import chosen_compile
from segtrain.training.auto_precision import chosen_precision
from segtrain.training.in_step import InStep
from segtrain.training.split_version import split_version


@dataclass(frozen=True)
class Start:
    """All that a training is made of, on this rank."""

    cfg: Config
    run: Run
    world: World
    stop: Stop
    store: Store
    split: Split
    order: Order
    loss: Loss
    engine: Engine
    augmentation: Tried | None = None  # where it is one of the user's own
    decided: tuple[str, ...] = ()  # what trials chose, in words

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.cfg.train.epochs * self.order.steps_per_epoch

    @cached_property
    def schedule(self) -> Schedule:
        """The learning rate of each step. Raises ConfigError."""
        return schedule_of(self.cfg, self.order)

    @cached_property
    def data_hash(self) -> str:
        """What decides which slice stands at which position, besides the config: patients and lesion areas."""
        parts = [self.split.hash, list(self.order.areas)]
        regions = self.store.layout.regions
        if self.store.contrasts != LGG_CONTRASTS or len(regions) > 1:
            parts += [self.store.contrasts, regions]
        if len(regions) > 1:  # labels may be drawn anew within one area
            parts.append(self.store.columns.region_voxels_of(self.split.train))
        if self.order.known is not None:
            parts.append(list(self.order.known))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def remedy(self) -> str:
        """What to try where a loss or a weight is not finite."""
        return f"try a smaller optim.lr (now {self.cfg.optim.lr}), optim.clip_norm=1 or precision=fp32"

    def patients_at(self, step: int) -> list[str]:
        """The patients of the whole global batch of a step, for messages."""
        return sorted(self.split.train[index] for index in self.order.patients_at(step))


def prepare(cfg: Config, run: Run, stop: Stop, world: World, fresh: bool) -> Start:
    """Check and put together everything up to the first step. Collective.

    Raises ConfigError, DataError or LaunchError, before anything but the store is written; Stopped on all ranks alike.
    """
    build.refuse_for_device(cfg, world.device)
    store = _ensure_store_in_step(cfg.data, stop, world)
    data = store.resolved(cfg.data)
    version = world.on_main(lambda: split_version(data, store, run, fresh))
    cfg = replace(cfg, data=replace(data, split_version=version))
    if precision := chosen_precision(cfg, run, fresh, world):
        cfg = replace(cfg, precision=precision.precision)
        build.refuse_for_device(cfg, world.device)  # a run that began as tf32 may go on elsewhere
    split, order = plan_order(cfg, store, world.size)
    _refuse_unknown_spacing(cfg, store, split)
    begun = not fresh and world.on_main(run.saved_step) > 0
    augmentation = build.augmentation(cfg, world)
    if compiling := chosen_compile(cfg, run, fresh, cfg.train.epochs * order.steps_per_epoch, world):
        cfg = replace(cfg, model=replace(cfg.model, compile=compiling.compile))
        build.refuse_for_device(cfg, world.device)  # a run that began compiled may go on where nothing compiles
    loss, engine = build.build(cfg, world, begun)
    decided = tuple(str(choice) for choice in (precision, compiling) if choice)
    start = Start(cfg, run, world, stop, store, split, order, loss, engine, augmentation, decided)
    _ = start.schedule  # one of the user's own that does not fit is refused now
    return start


def _refuse_unknown_spacing(cfg: Config, store: Store, split: Split) -> None:
    """Raises DataError now rather than at the first evaluation."""
    refuse_unknown_spacing(cfg.evaluate, store.columns.spacings_of(split.validation), store.layout.regions)


def schedule_of(cfg: Config, order: Order) -> Schedule:
    """The learning rate of each step of a run in this order. Raises ConfigError."""
    return make_schedule(cfg.optim, cfg.train.epochs * order.steps_per_epoch, order.steps_per_epoch)


def _ensure_store_in_step(cfg: DataConfig, stop: Stop, world: World) -> Store:
    """The store, on every rank; one process a node builds, the others wait in step with it. Collective.

    That process alone looks at the files of source and store: a file server would not bear it of a thousand ranks.
    Raises what is wrong with the data, and Stopped, on all ranks alike.
    """
    in_step = InStep(stop, world)
    failure: SegtrainError | None = None
    store: Store | None = None
    if world.local_rank == 0:
        try:
            store = ensure_store(cfg, in_step.check)
            if world.is_main:
                log_left_out(cfg, store)
                log_labels(store)
                log_distances(cfg, store)
        except (ConfigError, DataError, LaunchError) as error:
            failure = error
    in_step.finish(failure)
    note = world.on_main(lambda: StoreNote.of(store) if store else None)
    if store is None and note is not None:
        store = note.open(cfg)
    return store or ensure_store(cfg)  # where the node has other data than rank 0, which is refused later


def refuse_disagreement(start: Start) -> None:
    """Raise LaunchError on a rank that sees another config or other data than rank 0. Collective."""
    mine = {**asdict(start.cfg), "split": start.split.hash, "store": start.store.path.name}
    theirs = start.world.on_main(lambda: mine)
    if different := [key for key in mine if mine[key] != theirs[key]]:
        raise LaunchError(
            f"rank {start.world.rank} on {socket.gethostname()} has another {different[0]} than rank 0; give all nodes "
            "the same command and the same data"
        )


class Rehearsal:
    """Checks runs for `ranks` ranks on this machine; what runs have in common is done once."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._stores: list[tuple[DataConfig, Store | SegtrainError]] = []
        self._built: list[tuple[Config, bool, SegtrainError | None]] = []

    def check(self, cfg: Config) -> None:
        """Raise what training would raise before its first step. Prepares the data where that is still to be done."""
        device = device_of(cfg.device, self.ranks - 1, self.ranks)
        build.refuse_for_device(cfg, device)
        store = self._store(cfg.data)
        data = store.resolved(cfg.data)
        cfg = replace(cfg, data=replace(data, split_version=split_version(data, store, Run.of(cfg))))
        split, order = plan_order(cfg, store, self.ranks)
        _refuse_unknown_spacing(cfg, store, split)
        schedule_of(cfg, order)
        self._build(cfg)

    def _store(self, data: DataConfig) -> Store:
        same = replace(data, fold=0)
        store = next((store for other, store in self._stores if other == same), None)
        if store is None:
            try:
                store = ensure_store(data)
            except SegtrainError as error:
                store = error
            self._stores.append((same, store))
        if isinstance(store, SegtrainError):
            raise store
        return store

    def _build(self, cfg: Config) -> None:
        begun = Run.of(cfg).saved_step() > 0
        precision = "fp32" if cfg.precision == "auto" else cfg.precision
        model = replace(cfg.model, compile=False) if cfg.model.compile == "auto" else cfg.model
        cfg = replace(cfg, precision=precision, model=model)
        same = replace(cfg, name="same", seed=0, data=replace(cfg.data, fold=0))
        known = [error for other, with_weights, error in self._built if (other, with_weights) == (same, begun)]
        if not known:
            known.append(self._error_of(cfg, begun))
            self._built.append((same, begun, known[0]))
        if known[0]:
            raise known[0]

    def _error_of(self, cfg: Config, begun: bool) -> SegtrainError | None:
        try:
            build.augmentation(cfg, World())
            build.rehearse(cfg, self.ranks, begun)
        except SegtrainError as error:
            return error
        return None
