"""Starting a job as a process of this machine."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from jobs.submission import Submission
from segtrain.runtime.launcher import LOCAL_JOB, LOCAL_RESTART


def start(
    submission: Submission, name: str, start_of: tuple[str, int], environment: Mapping[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a run here as on a node of a cluster, for `start_of`: job and restart. `options`: subprocess.Popen's.

    It saves and leaves when this process is gone, however it went; so it is called from the main thread.
    """
    code = f"from jobs.node import train; train({str(submission.root)!r}, {name!r}, {os.getpid()})"
    ours = {
        **os.environ,
        LOCAL_JOB: start_of[0],
        LOCAL_RESTART: str(start_of[1]),
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen([sys.executable, "-c", code], env={**ours, **environment}, **options)
