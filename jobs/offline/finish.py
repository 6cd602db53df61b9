"""The end of a queue: report, archive, the last of the mirror, the command when done."""

import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.offline import archive, sync
from jobs.offline.plan import Plan

log = logging.getLogger("segtrain.offline")


def report(plan: Plan, go_on: Callable[[], bool]) -> str | None:
    """Write the report of the runs that began; why that failed."""
    runs = [str(item.run.root) for item in plan.items if item.cfg and (item.run.root / "config.yaml").exists()]
    if not runs:
        return None
    out = plan.folder / "report"
    command = [sys.executable, "-m", "segtrain", "report", *runs, "--out", str(out)]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        while process.poll() is None:
            if not go_on():
                process.kill()
            time.sleep(0.1)
        if not go_on():
            return None
        if process.returncode:
            said.seek(0)
            return f"the report: {(said.read().strip().splitlines() or ['no word of why'])[-1]}"
    log.info("report: %s", out / "index.html")
    return None


def pack(plan: Plan, go_on: Callable[[], bool]) -> str | None:
    """Write the archive; why that failed."""
    needed, free = archive.size_bytes(plan.folder), shutil.disk_usage(plan.folder).free
    if needed > free:
        return f"the archive: needs up to {needed / 2**30:.2f} GiB, {free / 2**30:.2f} are free in {plan.folder}"
    try:
        written = archive.write(plan.folder, go_on)
    except OSError as error:
        return f"the archive: {error}"
    if written:
        log.info("archive: %s, %.1f MiB; checksum beside it", written, written.stat().st_size / 2**20)
    return None


def files_of(plan: Plan) -> list[Callable[[sync.Place], object]]:
    """What puts the archive and its checksum into the mirror, as far as they are there."""
    packed = plan.folder / archive.NAME
    return [partial(sync.put, file=file) for file in (packed, archive.checksum(packed)) if file.exists()]


def run_when_done(command: str, folder: Path) -> None:
    """Run the user's command; what it says is logged, how it ends changes nothing."""
    log.info("when done: %s", command)
    done = subprocess.run(
        command, shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        log.info("when done: %s", line)
    if done.returncode:
        log.warning("when done: ended with exit code %d", done.returncode)
