"""This machine as a queue needs it: GPUs, free space, the time that is left, a lock against another queue."""

import contextlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from segtrain.errors import ConfigError, LaunchError, RunError
from segtrain.runtime import files, lock

log = logging.getLogger("segtrain.queue")

ORPHANS_S = 150.0  # that processes of a killed queue may take to save and leave: torchrun gives its workers a minute
# Kept of a time budget for report, archive and sync: so much, but no more than this part of it.
RESERVE_S = 300.0
RESERVE = 0.1


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none without a driver. Without torch."""
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    indices = [line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit()]
    if answer.returncode or not indices:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = indices if visible is None else [name.strip() for name in visible.split(",")]
    return [name for name in names if name and name != "-1"]


def scarce(folders: Sequence[Path], min_free_gib: float) -> str | None:
    """Why there is too little space in one of the folders; None when there is enough.

    For one that does not exist, or that may not be read, the nearest existing folder above it counts.
    """
    for folder in folders:
        existing = next(p for p in (folder, *folder.parents) if os.path.exists(p))  # noqa: PTH110 (which raises there)
        try:
            free_gib = shutil.disk_usage(existing).free / 2**30
        except OSError:  # it is away for a while, which says nothing of its space
            continue
        if free_gib < min_free_gib:
            return f"the disk: {free_gib:.1f} GiB free in {existing}, min_free_gib is {min_free_gib:g}"
    return None


def deadline(began_s: float, max_hours: float | None, stop_at: str | None) -> float | None:
    """The earlier of both, in seconds since the epoch; None without either. Raises ConfigError.

    `max_hours` count from `began_s`; `stop_at` is a time like 2026-11-24T07:00.
    """
    ends = [] if max_hours is None else [began_s + 3600 * max_hours]
    if stop_at is not None:
        try:
            ends.append(datetime.fromisoformat(stop_at).timestamp())
        except ValueError as error:
            raise ConfigError(f"--stop-at {stop_at}: not a time with its day; write 2026-11-24T07:00") from error
    return min(ends, default=None)


def runs_end(now_s: float, deadline_s: float | None) -> float | None:
    """When the runs stop, so that the queue has ended by the deadline."""
    return None if deadline_s is None else deadline_s - min(RESERVE_S, RESERVE * max(0.0, deadline_s - now_s))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the queue's folder. Raises RunError: another queue runs in it, or it cannot be written."""
    file = folder / ".queue.lock"
    try:
        files.make_folder(folder)
        held = lock.take(file)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror}); free some space, or set runs_dir to another folder"
        ) from error
    if held is None:
        holder = file.read_text(encoding="utf-8").strip()
        raise RunError(f"{folder}: another queue (process {holder}) runs in it; wait for it, or stop it with kill")
    with contextlib.suppress(OSError):  # another user's, of a folder that is not shared
        file.write_text(str(os.getpid()), encoding="utf-8")
    try:
        yield
    finally:
        held.release()


def mark(folder: Path) -> int:
    """A descriptor for a run's process to inherit: while it is open, another queue's `wait_for_orphans` waits."""
    return lock.join(folder / ".runs.lock")


def wait_for_orphans(folder: Path, stopped: Callable[[], object], give_up_s: float = ORPHANS_S) -> None:
    """Wait until the runs of a queue that was killed have saved and left, as they do, or this one is `stopped`.

    Raises LaunchError: they do not leave.
    """
    end = time.monotonic() + give_up_s
    logged = False
    while not stopped():
        if not lock.is_joined(folder / ".runs.lock"):
            return
        if time.monotonic() > end:
            raise LaunchError(
                f"{folder}: runs of an earlier queue are still there after {give_up_s:.0f} s; end the processes that "
                f"hold {folder / '.runs.lock'} (fuser names them), then try again"
            )
        if not logged:
            logged = True
            log.info("runs of an earlier queue are saving; waiting for them")
        time.sleep(0.2)
