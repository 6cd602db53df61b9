"""A start whose first node was killed before it could decide: `python -m jobs.cut_off ROOT CODE`, in the batch script.

SLURM 22.05 does that where a node comes back that it had given up: it starts the job there, and then ends all that
it finds there of the job.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import scheduler
from jobs.history import History
from jobs.node import resubmission
from jobs.rendezvous import Rendezvous
from jobs.requeue import conclude, start_end
from jobs.submission import Submission
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show


def command(argv: Sequence[str]) -> int:
    """Decide what becomes of the job, unless its first node has; returns the job's exit code.

    Raises RunError: the job makes no progress.
    """
    root, code = Path(argv[0]), int(argv[1])
    submission, job = Submission(root), scheduler.this_job()
    name = next((run for run, its_job in submission.record["runs"].items() if its_job == job), None)
    if job is None or name is None:  # the job after the runs, which decides nothing about them
        return code
    history = History(submission.run(name))
    folder = history.start_folder(job, scheduler.restarts())
    booked = history.last(job).get("event") == "start"
    if not booked and Rendezvous(folder, 0, 1, "").over():
        return code
    if not booked:
        history.begin(job)
    code, sentence = conclude(history, job, start_end(folder, code), resubmission(submission, job))
    show(f"{name}: {sentence} (exit code {code})", errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(command))
