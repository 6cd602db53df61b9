"""`--max-parallel` over all arrays of an ablation: what a new array may run beside those that are in the queue."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jobs import submission
from jobs.resources import Resources
from segtrain.errors import LaunchError


@dataclass(frozen=True)
class Share:
    """What is left of a limit for a new array. after: the jobs that must have ended before it begins."""

    limit: int
    after: tuple[str, ...] = ()

    def applied(self, resources: Resources) -> Resources:
        """The resources with that dependency. Raises LaunchError: it does not go with the user's own."""
        if not self.after:
            return resources
        own = resources.dependency
        if own and "?" in own:  # sbatch combines by "all" or by "any", not by both
            raise LaunchError(
                f"--dependency {own}: with --max-parallel the new runs must also wait for job {', '.join(self.after)}; "
                "write it without '?', or leave one of both options out"
            )
        waits = f"afterany:{':'.join(self.after)}"
        return replace(resources, dependency=f"{own},{waits}" if own else waits)

    def sentence(self, requested: int) -> str | None:
        """What becomes of the limit, for people; None where the array has it to itself."""
        if self.after:
            return f"--max-parallel {requested}: they begin when job {', '.join(self.after)} has ended"
        if self.limit < requested:
            return f"--max-parallel {requested}: {self.limit} at a time beside those in the queue"
        return None


def share(runs_dir: str, name: str, limit: int, busy: Iterable[str]) -> Share:
    """What a new array of the ablation may run, so that all its arrays together run at most `limit` at a time.

    busy: its runs that are in the queue. An array there keeps the limit that it was submitted with; the new one gets
    the rest, or waits for all of them. Without a limit (0) it has none.
    """
    if not limit:
        return Share(0)
    jobs = submission.of_name(Path(runs_dir), name)
    elements: dict[str, int] = defaultdict(int)
    limits: dict[str, float] = {}
    for run in busy:
        job, earlier = jobs[run]
        array = job.id.partition("_")[0]
        elements[array] += 1
        limits[array] = earlier.record.get("max_parallel") or math.inf
    taken = sum(min(elements[array], limits[array]) for array in elements)
    if taken < limit:
        return Share(limit - int(taken))
    return Share(limit, tuple(sorted(elements, key=int)))
