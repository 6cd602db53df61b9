"""Train a queue of runs on this machine, left alone: `segtrain offline QUEUE.yaml`, or `python -m jobs.offline`."""

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from jobs.offline import own_files, queue_file, spot, sync, wrap_up
from jobs.offline import store_retry as retry
from jobs.offline.location import Location, locate
from jobs.offline.mirror import Mirror
from jobs.offline.queue_file import Plan
from jobs.offline.spot import Spot
from jobs.queue import machine
from jobs.queue.diagnosis import score
from jobs.queue.foreground import exit_code
from jobs.queue.journal import DONE, Journal, Standing, standing, stopped_by
from jobs.queue.runner import Runner
from segtrain.errors import EXIT_FINISHED, EXIT_STOPPED, ConfigError, DataError
from segtrain.run import Result, layout
from segtrain.runtime.process import main, start_logging
from segtrain.runtime.stop import Deadline, Stop
from segtrain.runtime.terminal import FILE_ONLY, show_table

log = logging.getLogger("segtrain.queue")

T = TypeVar("T")
EXIT_FAILED = 1
FETCH_S = 3600.0  # that fetching a run from the mirror may take,
LEAST_S = 60.0  # and what it gets however late it is
EXAMPLES = """\
examples:
  segtrain offline configs/offline/phantom.yaml --dry-run
  segtrain offline configs/offline/lgg.yaml data.root=/data/kaggle_3m --max-hours 8 --when-done 'sudo poweroff'
  segtrain offline configs/ablation/loss.yaml data.root=/data/kaggle_3m --sync s3://bucket/results

The same command goes on where it was, after a reboot, a reclaim or a kill too. A run that fails is tried again
(retries:) and then passed over; runs, journal, report and results.zip lie in <runs_dir>/<name of the queue>.

exit codes: 0 all runs finished; 1 a run failed, or report, archive or sync did; 2 a mistake in queue or command; 75
stopped (signal, STOP file, time, disk, reclaim) with everything saved: the same command goes on.
"""


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    options = argparse.ArgumentParser(
        "segtrain offline",
        description="Train a queue of runs, or an ablation, on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("queue", type=Path, metavar="QUEUE", help="YAML: name, runs; or the spec of an ablation")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="for all runs, for example data.root=...")
    options.add_argument("--dry-run", action="store_true", help="list the runs; train and write nothing")
    options.add_argument("--at-once", type=int, metavar="N", help="runs at a time; default: as the GPUs allow, else 1")
    options.add_argument("--processes", type=int, metavar="N", help="of a run (torchrun), each with a GPU; default 1")
    options.add_argument("--retries", type=int, metavar="N", help="further starts of a run that failed, default 1")
    options.add_argument("--min-free-gib", type=float, metavar="G", help="stop with less space than this, default 2")
    options.add_argument("--sync", metavar="ADDRESS", help="folder or fsspec address that mirrors the runs")
    options.add_argument("--spot", choices=get_args(Spot), help="stop when this cloud gives notice of taking it back")
    options.add_argument("--max-hours", type=float, metavar="H", help="end after H hours, kills and reboots included")
    options.add_argument("--stop-at", metavar="TIME", help="end at a time like 2026-11-24T07:00")
    options.add_argument(
        "--when-done", metavar="CMD", help="shell command at the end; not after a signal, nor again for no new start"
    )
    return options


def command(argv: Sequence[str]) -> int:
    """Train the queue; returns the exit code."""
    arguments = parser().parse_intermixed_args(list(argv))
    queue = queue_file.load(
        arguments.queue,
        arguments.overrides,
        at_once=arguments.at_once,
        processes=arguments.processes,
        retries=arguments.retries,
        min_free_gib=arguments.min_free_gib,
        sync=arguments.sync,
        spot=arguments.spot,
    )
    if arguments.max_hours is not None and arguments.max_hours <= 0:
        parser().error("--max-hours: more than 0")
    machine.deadline(0.0, arguments.max_hours, arguments.stop_at)  # raises what is wrong with it
    if arguments.dry_run:
        _show(
            queue, _standings(queue, Journal(queue.folder)), f"{queue.name}: {len(queue.items)} runs in {queue.folder}"
        )
        return EXIT_FINISHED
    stop = Stop()
    stop.listen()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the laptop is closed
    if not queue.sync:
        _refuse_what_is_past(arguments.stop_at, Journal(queue.folder))
    location = locate(queue.sync) / queue.name if queue.sync else None
    with machine.alone(queue.folder), spot.watching(queue.spot, stop):
        start_logging(queue.folder / layout.LOG)
        with _afterwards(arguments.when_done, queue.folder, stop):
            machine.wait_for_orphans(queue.folder, stop.reason)
            mirror = Mirror(location, queue.folder, 60 * queue.sync_every_min)
            return _train(queue, arguments, stop, mirror)


@contextlib.contextmanager
def _afterwards(when_done: str | None, folder: Path, stop: Stop) -> Iterator[None]:
    """Run the user's command once, however the queue ends, unless it was stopped, or a mistake was in the way.

    Nor where nothing was started and it has run since the last start: in `@reboot` it would switch the machine off
    for ever.
    """
    try:
        yield
    except ConfigError:
        when_done = None  # whoever mistypes sits at the machine
        raise
    except BaseException as error:
        log.exception("the queue failed: %s", error, extra=FILE_ONLY)  # before the machine is switched off
        raise
    finally:
        if when_done and not stop.reason():
            wrap_up.run_when_done(when_done, folder, Journal(folder))


def _refuse_what_is_past(stop_at: str | None, journal: Journal) -> None:
    """Raise ConfigError: the queue would end before it has started anything."""
    if stop_at and not journal.begun and datetime.fromisoformat(stop_at).timestamp() <= time.time():
        raise ConfigError(
            f"--stop-at {stop_at}: is past, it is {datetime.now():%Y-%m-%dT%H:%M}, and no run of the queue has begun; "
            "give a later time, or leave it out"
        )


def _train(queue: Plan, arguments: argparse.Namespace, stop: Stop, mirror: Mirror) -> int:
    """Everything between the locks; the exit code."""
    if mirror.to is not None:
        queue = _fetched(queue, mirror.to, stop, arguments)
        for item in queue.items:
            if item.cfg and item.run.root.is_dir():
                mirror.push(item.run.root)  # compared with the mirror, whose damage it mends
    _refuse_what_is_past(arguments.stop_at, Journal(queue.folder))
    journal = Journal(queue.folder)
    journal.write("begin", pid=os.getpid(), host=socket.gethostname(), runs=len(queue.items))
    began_s = journal.began_s()
    deadline_s = machine.deadline(began_s, arguments.max_hours, arguments.stop_at)
    deadline = Deadline(float("inf") if deadline_s is None else deadline_s)
    stop.watch(queue.folder / layout.STOP, None)
    log.info("queue %s: %d runs in %s", queue.name, len(queue.items), queue.folder)
    with _mirrored_even_so(mirror, stop):
        end = Runner(queue, journal, stop, mirror, machine.runs_end(began_s, deadline_s)).run()
        if deadline_s is not None:
            deadline_s = deadline.at_s()
        standings = _standings(queue, journal)
        write_standings = partial(wrap_up.write_standings, journal=journal, end=end)
        report = partial(wrap_up.report, deadline_s=deadline_s)
        tasks = (write_standings, report, wrap_up.write_notice, wrap_up.pack)
        failures = [None if stop.reason() else task(queue, lambda: not stop.reason()) for task in tasks]
        trouble = [failure for failure in failures if failure]
        if reason := stop.reason():
            end = stopped_by(reason)
        code = EXIT_FAILED if trouble and end == DONE else _flattened(exit_code(end, standings.values()))
        journal.write("left", reason=end.reason, why=end.sentence, code=code, trouble=trouble)
    unsent = mirror.flush(wrap_up.pushes(queue) if not stop.reason() else [], deadline_s, stop.reason)
    for line in (*trouble, *unsent):
        log.warning("%s", line)
    if end != DONE:
        log.warning("stopped: %s; everything is saved, the same command goes on", end.sentence)
    _show(queue, standings, f"{queue.name}: {end.sentence}")
    return code or (EXIT_FAILED if unsent else EXIT_FINISHED)


@contextlib.contextmanager
def _mirrored_even_so(mirror: Mirror, stop: Stop) -> Iterator[None]:
    """Mirrors what there is before an error goes on: the command when done, which comes next, may end the machine."""
    try:
        yield
    except BaseException:
        for line in mirror.flush(stopped=stop.reason):
            log.warning("%s", line)
        raise


def _flattened(code: int) -> int:
    """The exit code of many runs: whichever way one of them failed."""
    return code if code in (EXIT_FINISHED, EXIT_STOPPED) else EXIT_FAILED


def _standings(queue: Plan, journal: Journal) -> dict[str, Standing]:
    return {item.name: standing(item, journal) for item in queue.items}


def _fetched(queue: Plan, source: Location, stop: Stop, arguments: argparse.Namespace) -> Plan:
    """The queue, after runs that are further in the mirror were fetched; a run that is damaged there cannot be used."""
    began_s = Journal(queue.folder).began_s()
    deadline = Deadline(machine.deadline(began_s, arguments.max_hours, arguments.stop_at) or float("inf"))

    def insist(task: Callable[..., T], *of_task: Any) -> T:
        within_s = min(FETCH_S, max(LEAST_S, deadline.left_s()))
        return retry.insist(partial(task, *of_task), stop.reason, within_s)

    insist(own_files.fetch, source, queue.folder)
    items = []
    for item in queue.items:
        try:
            if item.cfg and not stop.reason() and insist(sync.fetch, source / item.name, item.run.root):
                log.info("%s: fetched from %s, at step %d", item.name, source, item.run.saved_step())
            items.append(item)
        except DataError as error:
            items.append(replace(item, cfg=None, trouble=str(error)))
    return replace(queue, items=tuple(items))


def _show(queue: Plan, standings: Mapping[str, Standing], title: str) -> None:
    columns = ("run", "state", "starts", "processes", "retries", "epochs", "best DSC", "why")
    rows = []
    for item in queue.items:
        result = item.run.result() if item.cfg else Result("none")
        one = standings[item.name]
        epochs = f"{result.epochs or 0}/{item.cfg.train.epochs}" if item.cfg else ""
        numbers = (str(one.starts), str(item.processes), str(item.retries), epochs, score(result))
        rows.append((item.name, one.state, *numbers, one.why))
    with contextlib.suppress(OSError):  # the terminal is gone
        show_table(title, rows, columns)


if __name__ == "__main__":
    sys.exit(main(command))
