"""A training by several processes of this machine, which this one starts, hears and stops."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from segtrain import errors
from segtrain.config import Config, to_yaml
from segtrain.data import world_sizes
from segtrain.errors import EXIT_FINISHED, ConfigError, LaunchError, SegtrainError, Stopped, StopReason
from segtrain.runtime import cpus
from segtrain.runtime.launcher import refuse_ranks
from segtrain.runtime.stop import Stop
from segtrain.runtime.terminal import show

log = logging.getLogger(__name__)

CONFIG, ERROR = "given.yaml", "error.json"  # in the folder that the ranks are given
LOOK_S = 0.2
LEAVE_S = 10.0  # for processes to end that were told to


def refuse_nproc(nproc: int) -> None:
    """Raise LaunchError for a number of processes that is none, or where this process is one of several."""
    if nproc < 1:
        raise LaunchError(f"nproc={nproc}: give the number of processes on this machine, 1 or more")
    if nproc > 1:
        refuse_ranks()


def refuse_ranks_of(cfg: Config, nproc: int) -> None:
    """Raise ConfigError or LaunchError where the batch cannot be shared, or the machine has fewer GPUs.

    Before anything starts: what depends on the data, the ranks find out themselves.
    """
    batch = cfg.train.global_batch
    if batch % nproc:
        ways = {
            "nproc={}": world_sizes.fitting_ranks(nproc, batch),
            "train.global_batch={}": world_sizes.fitting_batches(batch, nproc, lambda _: True),
        }
        raise ConfigError(
            f"nproc={nproc}: train.global_batch={batch} cannot be shared by {nproc} ranks; use "
            f"{world_sizes.remedy(ways)}"
        )
    from segtrain.runtime.world import device_of  # imports torch: seconds

    device = device_of(cfg.device, nproc - 1, nproc)
    if device.type == "cpu" and nproc > cpus.usable():
        log.warning("nproc=%d, but this machine allows %d CPU(s): the processes share them", nproc, cpus.usable())


def train_by_ranks(cfg: Config, nproc: int, fresh: bool, stop: Stop) -> None:
    """Train the run by so many ranks. Raises the SegtrainError of the rank that ended them."""
    with tempfile.TemporaryDirectory(prefix="segtrain-") as name:
        folder = Path(name)
        (folder / CONFIG).write_text(to_yaml(cfg), encoding="utf-8")
        with _started(folder, nproc, fresh) as process:
            signalled: set[int] = set()
            while True:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(LOOK_S)
                    break
                if stop.reason():
                    _stop_ranks(process, folder, signalled)
        if code != EXIT_FINISHED:
            raise _error_of(folder, code)


@contextmanager
def _started(folder: Path, nproc: int, fresh: bool) -> Iterator[subprocess.Popen[str]]:
    """The launcher of the ranks, whose output goes to standard error; at an error it is ended with them."""
    launcher = ["segtrain.api.launcher", str(os.getpid()), f"--nproc-per-node={nproc}"]
    ranks = ["-m", "segtrain.api.rank", str(folder), *(["--fresh"] if fresh else [])]
    # What can be imported here can be imported there.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", *launcher, *ranks],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        env=environment,
        start_new_session=True,  # a notebook and a terminal interrupt all processes of a group; a second one kills
    )
    assert process.stdout, "it is a pipe"
    reader = threading.Thread(target=_pass_on, args=(process.stdout,), name="outbox of ranks", daemon=True)
    reader.start()
    try:
        yield process
    finally:
        if process.poll() is None:  # a second interrupt
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for one in family:
                with suppress(psutil.Error):
                    one.kill()
            process.wait(LEAVE_S)
        reader.join(LEAVE_S)
        process.stdout.close()


def _pass_on(output: IO[str]) -> None:
    with suppress(ValueError):  # it was closed, since a process that is left holds it
        for line in output:
            show(line.rstrip("\n"), errors=True)


def _stop_ranks(launcher: subprocess.Popen[str], folder: Path, signalled: set[int]) -> None:
    """Have the ranks that listen save and leave, each once: the launcher would tell those that do not, too."""
    with suppress(psutil.Error):
        for one in psutil.Process(launcher.pid).children():
            if one.pid not in signalled and _mark(folder, one.pid).exists():
                signalled.add(one.pid)
                one.send_signal(signal.SIGINT)


def _mark(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.listens"


def say_that_it_listens(folder: Path) -> None:
    """Leave a mark of this rank: before it, an interrupt would end the process."""
    _mark(folder, os.getpid()).touch()


def _error_of(folder: Path, code: int) -> SegtrainError:
    """The error that a rank left; it has left none where it was killed, or has a bug, whose traceback is shown."""
    try:
        tree = json.loads((folder / ERROR).read_text(encoding="utf-8"))
    except OSError:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return LaunchError(f"a process of the training {how}; what it printed is above, and the same call resumes")
    if tree["kind"] == Stopped.__name__:
        return Stopped(tree["message"], StopReason.__members__.get(tree["reason"]))
    kind: type[SegtrainError] = getattr(errors, tree["kind"])
    return kind(tree["message"])


def leave_error(folder: Path, error: SegtrainError) -> None:
    """Leave an error to the process that started the ranks; the first that a rank leaves stays."""
    reason = error.reason.name if isinstance(error, Stopped) and error.reason else ""
    kind = next(one for one in type(error).__mro__ if one.__module__ == errors.__name__)  # others are not found by name
    tree = {"kind": kind.__name__, "message": str(error), "reason": reason}
    with suppress(OSError):
        aside = folder / f"{os.getpid()}.json"
        aside.write_text(json.dumps(tree), encoding="utf-8")
        os.link(aside, folder / ERROR)
