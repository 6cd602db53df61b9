"""Train a queue of runs on this machine, left alone: `python -m jobs.offline QUEUE.yaml`."""

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.entry import main
from jobs.offline import machine, plan, retry, sync, wrap_up
from jobs.offline.diagnosis import score
from jobs.offline.journal import DONE, Journal, Standing, standing
from jobs.offline.mirror import Mirror
from jobs.offline.plan import Plan
from jobs.offline.runner import Runner
from segtrain.errors import EXIT_FINISHED, EXIT_STOPPED, ConfigError, DataError
from segtrain.run import Result, layout
from segtrain.runtime.process import start_logging
from segtrain.runtime.stop import Stop
from segtrain.runtime.terminal import FILE_ONLY, as_title

log = logging.getLogger("segtrain.offline")

T = TypeVar("T")
EXIT_FAILED = 1
FETCH_S, LEAST_S = 3600.0, 60.0  # that a run may take to come from the mirror; late as it may be
EXAMPLES = """\
examples:
  python -m jobs.offline configs/offline/phantom.yaml --dry-run
  python -m jobs.offline configs/offline/lgg.yaml data.root=/data/kaggle_3m --max-hours 8 --when-done 'sudo poweroff'
  python -m jobs.offline configs/ablation/loss.yaml data.root=/data/kaggle_3m --sync s3://bucket/results

The same command goes on where it was, after a reboot, a reclaim or a kill too. A run that fails is tried again
(retries:) and then passed over; runs, journal, report and results.zip lie in <runs_dir>/<name of the queue>.

exit codes: 0 all runs finished; 1 a run failed, or report, archive or sync did; 2 a mistake in queue or command; 75
stopped (signal, STOP file, time, disk) with everything saved: the same command goes on.
"""


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        "python -m jobs.offline", description="Train a queue of runs, or an ablation, on this machine.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("queue", type=Path, metavar="QUEUE", help="YAML: name, runs; or the spec of an ablation")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="for all runs, for example data.root=...")
    made.add_argument("--dry-run", action="store_true", help="list the runs; train and write nothing")
    made.add_argument("--at-once", type=int, metavar="N", help="runs at a time (default: what the GPUs allow, else 1)")
    made.add_argument("--processes", type=int, metavar="N", help="of a run (torchrun), each with a GPU; default 1")
    made.add_argument("--retries", type=int, metavar="N", help="further starts of a run that failed, default 1")
    made.add_argument("--min-free-gib", type=float, metavar="G", help="stop with less space than this, default 2")
    made.add_argument("--sync", metavar="ADDRESS", help="folder or fsspec address that mirrors the runs")
    made.add_argument("--max-hours", type=float, metavar="H", help="end after H hours, kills and reboots included")
    made.add_argument("--stop-at", metavar="TIME", help="end at a time like 2026-11-24T07:00")
    made.add_argument(
        "--when-done", metavar="CMD", help="shell command at the end; not after a signal, nor again for no new start"
    )
    return made


def command(argv: Sequence[str]) -> int:
    """Train the queue; returns the exit code."""
    arguments = parser().parse_intermixed_args(list(argv))
    asked = plan.load(
        arguments.queue, arguments.overrides, at_once=arguments.at_once, processes=arguments.processes,
        retries=arguments.retries, min_free_gib=arguments.min_free_gib, sync=arguments.sync,
    )  # fmt: skip
    if arguments.max_hours is not None and arguments.max_hours <= 0:
        parser().error("--max-hours: more than 0")
    machine.deadline(0.0, arguments.max_hours, arguments.stop_at)  # what is wrong with it is said now
    if arguments.dry_run:
        journal = Journal(asked.folder)
        found = {item.name: standing(item, journal) for item in asked.items}
        _show(asked, found, f"{asked.spec.name}: {len(asked.items)} runs in {asked.folder}")
        return EXIT_FINISHED
    stop = Stop()
    stop.listen()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the laptop is closed
    if not asked.spec.sync:
        _refuse_what_is_past(arguments.stop_at, Journal(asked.folder))
    place = sync.place(asked.spec.sync) / asked.spec.name if asked.spec.sync else None
    with machine.alone(asked.folder):
        start_logging(asked.folder / layout.LOG)
        with _afterwards(arguments.when_done, asked.folder, stop):
            machine.wait_for_orphans(asked.folder, stop.reason)
            mirror = Mirror(place, asked.folder, 60 * asked.spec.sync_every_min)
            return _queue(asked, arguments, stop, mirror)


@contextlib.contextmanager
def _afterwards(when_done: str | None, folder: Path, stop: Stop) -> Iterator[None]:
    """Run the user's command once, however the queue ends, unless it was told to stop, or a mistake was in the way.

    Nor where nothing was started and it has run since the last start: in `@reboot` it would switch the machine off
    for ever.
    """
    try:
        yield
    except ConfigError:
        when_done = None  # who mistypes sits at the machine
        raise
    except BaseException as error:
        log.exception("the queue failed: %s", error, extra=FILE_ONLY)  # before the machine goes off
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


def _queue(asked: Plan, arguments: argparse.Namespace, stop: Stop, mirror: Mirror) -> int:
    """Everything between the locks; the exit code."""
    if mirror.to is not None:
        asked = _fetched(asked, mirror.to, stop, arguments)
    _refuse_what_is_past(arguments.stop_at, Journal(asked.folder))
    journal = Journal(asked.folder)
    journal.write("begin", pid=os.getpid(), host=socket.gethostname(), runs=len(asked.items))
    began_s = journal.began_s()
    deadline_s = machine.deadline(began_s, arguments.max_hours, arguments.stop_at)
    stop.watch(asked.folder / layout.STOP, None)
    log.info("queue %s: %d runs in %s", asked.spec.name, len(asked.items), asked.folder)
    why = Runner(asked, journal, stop, mirror, machine.runs_end(began_s, deadline_s)).run()
    found = {item.name: standing(item, journal) for item in asked.items}
    tell = partial(wrap_up.tell, journal=journal, why=why)
    tasks = (tell, partial(wrap_up.report, deadline_s=deadline_s), wrap_up.pack)
    said = [None if stop.reason() else task(asked, lambda: not stop.reason()) for task in tasks]
    trouble = [failure for failure in said if failure]
    if reason := stop.reason():
        why = reason.sentence
    code = _code(why, found.values(), trouble)
    journal.write("left", why=why, code=code, trouble=trouble)
    unsent = mirror.flush(wrap_up.files_of(asked) if not stop.reason() else [], deadline_s, stop.reason)
    for line in (*trouble, *unsent):
        log.warning("%s", line)
    if why != DONE:
        log.warning("stopped: %s; everything is saved, the same command goes on", why)
    _show(asked, found, f"{asked.spec.name}: {why}")
    return code or (EXIT_FAILED if unsent else EXIT_FINISHED)


def _fetched(asked: Plan, source: sync.Place, stop: Stop, arguments: argparse.Namespace) -> Plan:
    """The queue with what the mirror has more of brought here; a run that is damaged there has that for its trouble."""
    began_s = Journal(asked.folder).began_s()
    end_s = machine.deadline(began_s, arguments.max_hours, arguments.stop_at) or float("inf")

    def insist(task: Callable[..., T], *of_task: Any) -> T:
        within_s = min(FETCH_S, max(LEAST_S, end_s - time.time()))
        return retry.insist(partial(task, *of_task), stop.reason, within_s)

    insist(sync.fetch_journal, source, asked.folder)
    items = []
    for item in asked.items:
        try:
            if item.cfg and not stop.reason() and insist(sync.fetch, source / item.name, item.run.root):
                log.info("%s: fetched from %s, at step %d", item.name, source, item.run.saved_step())
            items.append(item)
        except DataError as error:
            items.append(replace(item, cfg=None, trouble=str(error)))
    return replace(asked, items=tuple(items))


def _code(why: str, found: Iterable[Standing], trouble: Sequence[str]) -> int:
    states = {standing.state for standing in found}
    if why != DONE:
        return EXIT_STOPPED
    if trouble or states & {"refused", "diverged", "failed"}:
        return EXIT_FAILED
    return EXIT_STOPPED if "held" in states else EXIT_FINISHED


def _show(asked: Plan, found: Mapping[str, Standing], title: str) -> None:
    table = Table(
        "run", "state", "starts", "processes", "retries", "epochs", "best DSC", "why", title=as_title(title),
        title_justify="left",
    )  # fmt: skip
    for item in asked.items:
        result, one = item.run.result() if item.cfg else Result("none"), found[item.name]
        epochs = f"{result.epochs or 0}/{item.cfg.train.epochs}" if item.cfg else ""
        numbers = (str(one.starts), str(item.processes), str(item.retries), epochs, score(result))
        table.add_row(*map(Text, (item.name, one.state, *numbers, one.why)))
    with contextlib.suppress(OSError):  # the terminal is gone
        Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main(command))
