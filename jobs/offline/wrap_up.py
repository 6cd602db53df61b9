"""The end of a queue: table of its runs, report, archive, last push to the mirror, the command when done."""

import contextlib
import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from jobs.offline import archive, results
from jobs.offline.location import Location
from jobs.queue.items import Queue
from jobs.queue.journal import Journal, QueueEnd, standing
from segtrain.config.licence import NOTICE, licence_of, notice
from segtrain.errors import DAMAGED, SegtrainError
from segtrain.run import QueueLine, Run, layout, write_queue
from segtrain.runtime import files
from segtrain.runtime.process import flush_log
from segtrain.runtime.stop import Deadline

log = logging.getLogger("segtrain.queue")

LEAST_S = 60.0  # that a report gets however late it is; without an atlas it takes seconds


def write_standings(queue: Queue, go_on: Callable[[], bool], journal: Journal, end: QueueEnd) -> str | None:
    """Write beside the runs what each has come to, for the report: those that never began could not do so themselves.

    Returns why it could not be written.
    """
    lines = []
    for item in queue.items:
        one = standing(item, journal)
        own = [entry for entry in journal.entries if entry.get("config") == item.digest and entry["run"] == item.name]
        ends = [entry for entry in own if entry["event"] == "end"]
        last = ends[-1] if ends else {"time": "", "why": ""}
        before = f"the queue stopped before it: {end.sentence}" if one.due else ""
        why = one.why or (last["why"] if one.due else "") or before
        lines.append(QueueLine(item.name, one.state, last["time"], why))
    try:
        write_queue(queue.folder, lines)
    except OSError as error:
        return f"{queue.folder / layout.QUEUE}: {error}"
    return None


def report(queue: Queue, go_on: Callable[[], bool], deadline_s: float | None = None) -> str | None:
    """Write the report of the runs if one of them began; returns why that failed.

    With a deadline, in seconds since the epoch, it may take half of what is left: the archive comes after it.
    The atlas, which predicts for minutes where there is no GPU, is left out when it does not fit.
    """
    begun = [item for item in queue.items if Run(queue.folder / item.name).config_file.exists()]
    if not begun:
        return None
    all_are_listed = (queue.folder / layout.QUEUE).exists()
    runs = [str(queue.folder / item.name) for item in (queue.items if all_are_listed else begun)]
    command = [sys.executable, "-m", "segtrain", "report", *runs, "--out", str(queue.folder / "report")]
    deadline = None if deadline_s is None else Deadline(deadline_s)
    tries: list[list[str]] = [[]] if deadline is None or deadline.left_s() / 2 >= LEAST_S else []
    for options in [*tries, ["--no-atlas"]]:
        limit_s = None if deadline is None else max(LEAST_S, deadline.left_s() / 2)
        ended, failure = _reported([*command, *options], go_on, limit_s)
        if ended or not go_on():
            break
        log.info("report: not ready after %.0f s of the time that is left", limit_s)
    if failure is None and go_on():
        log.info("report: %s", queue.folder / "report" / "index.html")
    return failure if go_on() else None


def _reported(command: Sequence[str], go_on: Callable[[], bool], limit_s: float | None) -> tuple[bool, str | None]:
    """Whether the report's command ended by itself, and why it failed."""
    end = time.monotonic() + (limit_s or float("inf"))
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        while process.poll() is None:
            if not go_on() or time.monotonic() > end:
                process.kill()
                process.wait()
                return False, f"the report: not ready after {limit_s} s"
            time.sleep(0.1)
        output.seek(0)
        last_line = (output.read().strip().splitlines() or ["it failed without a message"])[-1]
    return True, f"the report: {last_line}" if process.returncode else None


def write_notice(queue: Queue, go_on: Callable[[], bool]) -> str | None:
    """Write the licence of the data beside the runs, for whoever gets the archive; returns why that failed."""
    licences = []
    for item in queue.items:
        with contextlib.suppress(*DAMAGED, SegtrainError):  # it never began, or cannot be read
            licences.append((item.name, licence_of(Run(queue.folder / item.name).config().data)))
    try:
        if licences:
            files.write_text(queue.folder / NOTICE, notice(f"Runs of the queue {queue.folder.name}.", licences))
    except OSError as error:
        return f"{queue.folder / NOTICE}: {error}"
    return None


def pack(queue: Queue, go_on: Callable[[], bool]) -> str | None:
    """Write the archive; returns why that failed, or what could not be packed."""
    flush_log()
    needed, free = archive.size_bytes(queue.folder), shutil.disk_usage(queue.folder).free
    if needed > free:
        return f"the archive: needs up to {needed / 2**30:.2f} GiB, {free / 2**30:.2f} are free in {queue.folder}"
    try:
        written = archive.write(queue.folder, go_on)
    except (OSError, ValueError) as error:
        return f"the archive: {error}"
    if written is None:
        return None
    log.info("archive: %s, %.1f MiB; checksum beside it", written.file, written.file.stat().st_size / 2**20)
    reasons = [f"{path.relative_to(queue.folder)} ({why})" for path, why in written.left_out.items()]
    for reason in reasons:
        log.warning("the archive: without %s", reason)
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"the archive: without {reasons[0]}{more}" if reasons else None


def pushes(queue: Queue) -> list[Callable[[Location], object]]:
    """The tasks that put archive and checksum into the mirror, if they exist."""
    packed = queue.folder / archive.NAME
    is_there = packed.exists() and archive.checksum(packed).exists()
    return [partial(results.put, packed=packed)] if is_there else []


def run_when_done(command: str, folder: Path, journal: Journal) -> None:
    """Run the user's command, but not again and again; its output is logged, its exit code changes nothing.

    Not its text, which may hold a token: journal and log go into the archive and the mirror.
    """
    if journal.hook_has_run():
        log.info("when done: the command is not run, since nothing was started and it has run since the last start")
        return
    with contextlib.suppress(OSError):  # the disk is full
        journal.write("hook", sha256=hashlib.sha256(command.encode(errors="surrogateescape")).hexdigest())
    log.info("when done: running the command")
    flush_log()  # the command may switch the machine off
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    for line in done.stdout.splitlines():
        log.info("when done: %s", line)
    if done.returncode:
        log.warning("when done: ended with exit code %d", done.returncode)
    flush_log()
