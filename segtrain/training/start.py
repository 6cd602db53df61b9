"""The start of a training, from a config to the loop."""

import logging
import socket
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from segtrain.config import Config
from segtrain.data.order import make_order
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import Split, make_split
from segtrain.data.store import Store
from segtrain.errors import DataError, Diverged, LaunchError, SegtrainError, Stopped
from segtrain.run import Run
from segtrain.runtime.process import start_logging
from segtrain.runtime.stop import Stop, reason
from segtrain.runtime.terminal import FILE_ONLY

if TYPE_CHECKING:
    from segtrain.run.checkpoint import Saver
    from segtrain.runtime.world import World
    from segtrain.training.loop import Trainer

log = logging.getLogger(__name__)


def train(cfg: Config, run: Run, argv: Sequence[str], fresh: bool, stop: Stop, world: "World") -> None:
    """Prepare, build and train on this rank; rank 0 writes down how it ended. Collective."""
    from segtrain.training.build import build, refuse_for_device
    from segtrain.training.loop import Trainer

    refuse_for_device(cfg, world.device.type)
    store = _prepare(cfg, stop, world)
    split = make_split(cfg.data, store)
    make_order(cfg, store, split).columns(world.rank, world.size)
    begun = not fresh and world.on_main(run.saved_step) > 0
    trained = build(cfg, world, begun)
    try:
        device = str(world.device)
        world.on_main(lambda: run.open(cfg, split.to_json(), argv, fresh, world.size, device))
        start_logging(run.log_file, world.rank)
        _agree(cfg, store, split, world)
        if world.is_main:
            _first_words(cfg, run, store, split, world.size, device)
        _run(Trainer(cfg, run, store, split, world, stop, trained), run, world.is_main)
    except SegtrainError as error:
        if error.told_by == "node":
            error.told_by = "rank"
        raise


def _prepare(cfg: Config, stop: Stop, world: "World") -> Store:
    """The store, on every rank; one process a node builds, the others wait in step with it. Collective.

    Raises what is wrong with the data where it was found, and Stopped on all ranks alike.
    """

    def in_step(busy: bool, error: DataError | None = None) -> bool:
        """Whether any rank is still busy."""
        code, failed, others_busy = world.largest(stop.code(), error is not None, busy)
        if code:
            raise Stopped(f"stopped by {reason(code)} before the first step; the same command goes on from there")
        if error is not None:
            raise error
        if failed:
            error = DataError("another process could not prepare the data; see its message")
            error.told_by = "main"
            raise error
        return others_busy > 0

    def keep_step() -> None:
        in_step(busy=True)

    found = None
    if world.local_rank == 0:
        try:
            ensure_store(cfg.data, keep_step)
        except DataError as error:
            error.told_by = "rank"
            found = error
    while in_step(busy=False, error=found):
        pass
    return ensure_store(cfg.data)


def _agree(cfg: Config, store: Store, split: Split, world: "World") -> None:
    """Raise LaunchError on a rank that sees another config or other data than rank 0. Collective."""
    mine = {**asdict(cfg), "split": split.hash, "store": store.path.name}
    theirs = world.on_main(lambda: mine)
    if different := [key for key in mine if mine[key] != theirs[key]]:
        raise LaunchError(
            f"rank {world.rank} on {socket.gethostname()} has another {different[0]} than rank 0; give all nodes the "
            "same command and the same data"
        )


def _run(trainer: "Trainer", run: Run, is_main: bool) -> None:
    """Run the trainer; rank 0 writes down how it ended."""
    state, why = "failed", None
    try:
        trainer.run()
        state = "finished"
    except RuntimeError as error:
        told = trainer.fit.explain(error)
        state, why = ("stopped" if isinstance(told, Stopped) else "failed"), f"{type(told).__name__}: {told}"
        if told is error:
            raise
        raise told from error
    except BaseException as error:
        state = "diverged" if isinstance(error, Diverged) else "stopped" if isinstance(error, Stopped) else "failed"
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        if trainer.saver:
            _wait_for(trainer.saver)  # the process may leave without joining its threads
        if trainer.curves:
            trainer.curves.close()
        if is_main:
            run.end(state, trainer.step, trainer.epochs_done, why, trainer.best_dsc)
    if is_main:
        assert trainer.best_dsc is not None, "the last epoch is always evaluated"
        last_words(run, trainer.best_dsc)


def _wait_for(saver: "Saver") -> None:
    """Have the checkpoint that is being written be whole; how the run ended stays what is told of it."""
    try:
        saver.wait()
    except Exception:
        log.exception("the last checkpoint was not written; the one before is kept")


def _first_words(cfg: Config, run: Run, store: Store, split: Split, world_size: int, device: str) -> None:
    log.info("run %s on %d %s rank(s), global batch %d", run.root, world_size, device, cfg.train.global_batch)
    log.info(
        "data: %s, %d px: %d patients train, %d validate",
        store.label,
        store.size_px,
        len(split.train),
        len(split.validation),
    )


def last_words(run: Run, best_dsc: float) -> None:
    """Print where the run lies and its result; the last line is the score."""
    for line in (
        f"Run directory: {run.root.resolve()}",
        f"TensorBoard:   tensorboard --logdir {run.tensorboard.resolve()}",
        f"Best validation mean DSC: {best_dsc:.6f}",
    ):
        print(line, flush=True)
        log.info(line, extra=FILE_ONLY)
