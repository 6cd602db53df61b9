"""Which runs of a queue training would refuse here, before the first of them is started."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.queue.items import Item
from segtrain.config import to_yaml
from segtrain.errors import RunError, Stopped
from segtrain.runtime.stop import Stop

POLL_EVERY_S = 0.1


def problems(items: Sequence[Item], processes: int, stop: Stop) -> dict[str, str]:
    """Runs that training would refuse with so many processes, by name, each with its reason.

    Finished runs are left out. It takes a process of its own, since it imports torch. Raises Stopped: this process was
    asked to stop; CalledProcessError: a bug.
    """
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="segtrain-preflight-") as folder:
        due = False
        for item in items:
            assert item.cfg is not None, "a run without a config is refused already"
            try:
                if not item.run.finished(item.cfg):
                    Path(folder, f"{item.name}.yaml").write_text(to_yaml(item.cfg), encoding="utf-8")
                    due = True
            except RunError as error:
                refused[item.name] = str(error)
        if not due:
            return refused
        out = Path(folder, "problems.json")
        arguments = [folder, str(processes), str(out), str(os.getpid())]
        command = [sys.executable, "-m", "segtrain.training.preflight", *arguments]
        if code := _run(command, stop):
            raise subprocess.CalledProcessError(code, command)
        refused |= json.loads(out.read_text(encoding="utf-8"))
    return {item.name: refused[item.name] for item in items if item.name in refused}


def _run(command: Sequence[str], stop: Stop) -> int:
    """The exit code of a command, which has nothing to save. Raises Stopped."""
    # In a session of its own, or the terminal's Ctrl-C would end it before this process knows of it.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while process.poll() is None:
            if reason := stop.reason():
                message = f"stopped by {reason.sentence} before the first run; the same command goes on from there"
                raise Stopped(message, reason)
            time.sleep(POLL_EVERY_S)
        if reason := stop.reason():
            raise Stopped(f"stopped by {reason.sentence} before the first run; the same command goes on", reason)
        return process.returncode
    finally:
        process.kill()
        process.wait()
