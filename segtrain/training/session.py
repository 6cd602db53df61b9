"""One training from its first word to its last: start, loop, outcome."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from segtrain.config import Config, untrained_views
from segtrain.data.content import content_of
from segtrain.data.published import published_remark
from segtrain.data.splits import Split, people_in
from segtrain.data.store import Store
from segtrain.errors import Diverged, Stopped, StopReason
from segtrain.run import Environment, Outcome, Run, checkpoint
from segtrain.run.environment import changed_since
from segtrain.run.outcome import State
from segtrain.runtime.gpu import is_ampere_or_newer
from segtrain.runtime.outbox import Outbox
from segtrain.runtime.process import start_logging
from segtrain.runtime.stop import Stop
from segtrain.runtime.world import World
from segtrain.training.loop import Loop
from segtrain.training.micro_batch import guard
from segtrain.training.parts import described
from segtrain.training.resume import resume
from segtrain.training.start import Start, prepare, refuse_disagreement

log = logging.getLogger(__name__)


def train(cfg: Config, run: Run, arguments: Sequence[str], fresh: bool, stop: Stop, world: World) -> float | None:
    """Train the run on this rank; its best validation mean DSC, on rank 0. Collective.

    Raises a SegtrainError; rank 0 has then written down how the run ended.
    """
    start = prepare(cfg, run, stop, world, fresh)
    with ExitStack() as held:

        def open_run() -> None:
            tree = split_tree(start.store, start.split)
            held.callback(run.open(start.cfg, tree, arguments, _environment(start), fresh).release)

        world.on_main(open_run)
        return _train(start)


def _train(start: Start) -> float | None:
    """Train the run, which is open."""
    cfg, run, world = start.cfg, start.run, start.world
    start_logging(run.log_file, world.rank)
    refuse_disagreement(start)
    if world.is_main:
        _introduce(start)
        for difference in changed_since(run.starts()):
            log.warning("%s; from here on the run may not be what it would have been", difference)
    position = resume(start)
    memory = guard(cfg.train, run, start.engine, world, position.memory)
    saver = checkpoint.Saver(run, cfg.checkpoint.keep) if world.is_main else None
    loop = Loop(start, position, memory, saver)
    run_to_its_outcome(loop)
    return loop.best_dsc


def run_to_its_outcome(loop: Loop) -> None:
    """Run the loop; rank 0 writes down how it ended, whatever it raises. Collective."""
    state: State = "failed"
    message: str | None = None
    reason: StopReason | None = None
    try:
        _run(loop)
        state = "finished"
    except BaseException as error:
        if isinstance(error, Stopped):
            state, reason = "stopped", error.reason
        elif isinstance(error, Diverged):
            state = "diverged"
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        loop.close()
        if loop.saver:
            outcome = Outcome(state, loop.step, loop.epochs_done, loop.best_dsc, reason, message)
            _conclude(loop.saver.outbox, loop.start.run, outcome)


def _run(loop: Loop) -> None:
    """Run the loop; a collective that failed since another rank was out of memory says so."""
    try:
        loop.run()
    except RuntimeError as error:
        explained = loop.memory.explain(error)
        if explained is error:
            raise
        raise explained from error


def _conclude(outbox: Outbox, run: Run, outcome: Outcome) -> None:
    """Write what is left, then the outcome: the process may leave without its threads.

    Raises RunError where the outcome of a finished run could not be written. An error that ended the run remains the
    error that is told.
    """
    try:
        if failure := outbox.drain():
            log.error("%s: %s", run.root, failure)
            outbox.give_up()
    except Exception:
        log.exception("%s: a write failed", run.root)
    outbox.put("the outcome", partial(run.end, outcome))
    if outcome.state == "finished":
        outbox.finish()
    elif failure := outbox.drain():
        log.error("%s: %s", run.root, failure)
    outbox.close()


def _environment(start: Start) -> Environment:
    world = start.world
    return Environment.now(
        world.size,
        str(world.device),
        world.device_name,
        world.libraries,
        start.store.path.name,
        start.cfg.precision,
        is_ampere_or_newer(world.device),
    )


def split_tree(store: Store, split: Split) -> dict[str, Any]:
    """The split, and what its patients consist of, for split.json."""
    content = content_of(store, (*split.train, *split.validation))
    tree = split.to_json()
    return tree | ({"content": {patient: asdict(one) for patient, one in content.items()}} if content else {})


def _introduce(start: Start) -> None:
    log.info(
        "run %s on %d %s rank(s), global batch %d",
        start.run.root,
        start.world.size,
        start.world.device,
        start.cfg.train.global_batch,
    )
    log.info(
        "data: %s, %d px: %d patients train, %d validate",
        start.store.label,
        start.store.size_px,
        len(start.split.train),
        len(start.split.validation),
    )
    if start.split.people:
        log.info("%d of these patients are the scans of %d person(s) with several", *start.split.counts_of_people)
    if message := untrained_views(start.cfg):
        log.warning("%s", message)
    people = people_in(start.cfg.data, start.store)
    if remark := published_remark(start.cfg.data, people.values(), (people[p] for p in start.split.validation)):
        log.info("%s", remark)
    for line in described(start):
        log.info("%s", line)
