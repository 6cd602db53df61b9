"""One rank of a job, started by torchrun: `segtrain.train`, whose end is written down, since torchrun loses it.

rank-<r> in the start's folder holds code, reason (the name of a StopReason, or none) and message as JSON; fault-<r> the
error of a rank whose machine failed it.
"""

import json
import os
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from jobs.history import stop_reason
from segtrain.commands.train import command
from segtrain.errors import SegtrainError, Stopped, StopReason
from segtrain.runtime import files
from segtrain.runtime.launcher import env_int, leave
from segtrain.runtime.outbox import patiently
from segtrain.runtime.process import run_command

START_FOLDER = "SEGTRAIN_CODES"  # the environment variable that names the folder for rank-<r>; slurm/env.sh reads it
# Errors that say that a device or the network failed, not the code: CUDA's, NCCL's and the driver's words.
FAULT = re.compile(r"ECC error|hardware|NVLink|GPU is lost|fallen off the bus|ncclRemoteError|ncclSystemError")


@dataclass(frozen=True)
class RankEnd:
    """How a rank that left by itself ended. `message`: of its error."""

    code: int
    reason: StopReason | None = None
    message: str = ""


def main(argv: Sequence[str]) -> int:
    """Train; the exit code, which is written down."""
    caught: SegtrainError | None = None

    def training(argv: Sequence[str]) -> int:
        nonlocal caught
        try:
            return command(argv)
        except SegtrainError as error:
            caught = error
            raise
        except Exception as error:
            _write_down_a_fault(f"{type(error).__name__}: {error}")
            raise

    code = run_command(training, argv)
    if folder := os.environ.get(START_FOLDER):
        reason = caught.reason if isinstance(caught, Stopped) else None
        end = {**asdict(RankEnd(code, reason, str(caught or ""))), "reason": reason.name if reason else None}
        file = Path(folder, f"rank-{env_int('RANK', 0)}")
        patiently(file, partial(files.write_json, file, end))
    return code


def _write_down_a_fault(message: str) -> None:
    if FAULT.search(message) and (folder := os.environ.get(START_FOLDER)):
        rank, host = env_int("RANK", 0), os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        file = Path(folder, f"fault-{rank}")
        text = f"rank {rank} on {host}: {' '.join(message.split())[:300]}"
        patiently(file, partial(files.write_text, file, text))


def faults(folder: Path) -> list[str]:
    """What the machines of a start failed its ranks by, in words."""
    return [file.read_text(encoding="utf-8") for file in sorted(folder.glob("fault-*"))]


def rank_ends(folder: Path) -> list[RankEnd]:
    """How the ranks of a start ended, as far as they wrote it down."""
    return [end for file in sorted(folder.glob("rank-*")) if (end := _read(file.read_text(encoding="utf-8")))]


def _read(text: str) -> RankEnd | None:
    """What a rank wrote down. Before it was JSON, it was the code, and below it the message."""
    try:
        tree = json.loads(text)
        if isinstance(tree, dict):
            return RankEnd(int(tree["code"]), stop_reason(tree), str(tree["message"]))
    except (ValueError, KeyError, TypeError):
        pass
    code, _, message = text.partition("\n")
    return RankEnd(int(code), stop_reason({"why": message}), message) if code.isdigit() else None


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
