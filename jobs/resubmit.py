"""A job's run submitted once more, where SLURM refuses to requeue: `python -m jobs.resubmit ROOT JOB [WHY]`.

For jobs.node, and with the reason why for a batch script: its step has not booked its start, or could only ask for a
requeue, since it is in a container. Prints the new job's id, which job.json has from then on.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import sbatch
from jobs.history import History, stop_reason
from jobs.submission import Submission
from segtrain.errors import EXIT_FINISHED, LaunchError
from segtrain.runtime import lock
from segtrain.runtime.process import main


def command(argv: Sequence[str]) -> int:
    """Submit the run, to start when the job has ended; returns the exit code. Raises LaunchError."""
    root, job, *why = argv
    submission = Submission(Path(root))
    while lock.take(submission.root / ".job.json.lock") is None:  # other runs of an array add their own
        time.sleep(0.2)
    name = next((run for run, its_job in submission.record["runs"].items() if its_job == job), None)
    if name is None:
        raise LaunchError(f"{submission.root / 'job.json'}: no run of job {job}; submit the run yourself")
    new = sbatch.resubmit(submission, name, job)
    if why:
        history = History(submission.run(name))
        last = history.last(job)
        decided = last.get("event") == "end"  # by the step: whether its start counts
        soon = bool(last.get("soon")) if decided else True
        reason = stop_reason(last) if decided else None
        history.end(job, "resubmitted", f"{why[0]}; job {new} goes on", reason, soon, next_job=new)
    sys.stdout.write(f"{new}\n")
    return EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(main(command))
