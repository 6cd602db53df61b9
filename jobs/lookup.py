"""What SLURM says of jobs that were submitted. An id is given to another job after a cluster was set up anew, and by
every other cluster with the same home: SLURM's entry is believed only if it fits what was known at the submission.
"""

import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from jobs import scheduler
from jobs.scheduler import Entry
from segtrain.errors import LaunchError


@dataclass(frozen=True)
class Job:
    """A job as it was submitted: its id, and what tells it from another with the same id; empty where not recorded.

    names: one of those that SLURM shows. is_slurms: not for a run that was started without SLURM.
    """

    id: str
    cluster: str = ""
    user: str = ""  # the number
    names: Sequence[str] = ()
    folder: str = ""
    is_slurms: bool = True

    @classmethod
    def of(cls, job: str, record: Mapping[str, Any], names: Sequence[str] = ()) -> Self:
        """That of an id and of what `identity` recorded of it, nothing in older files; `names`: further ones."""
        known = {key: str(record.get(key) or "") for key in ("cluster", "user", "folder")}
        all_names = tuple(dict.fromkeys(name for name in (str(record.get("name") or ""), *names) if name))
        return cls(job, names=all_names, is_slurms=scheduler.OWN.fullmatch(job) is not None, **known)

    def is_of(self, entry: Entry) -> bool:
        """Whether SLURM's entry is this job's: by the name alone where no more was recorded."""
        pairs = ((self.cluster, entry.cluster), (self.user, entry.user), (self.folder, entry.folder))
        named = not self.names or not entry.name or entry.name in self.names
        return self.id == entry.id and named and all(ours == theirs for ours, theirs in pairs if ours and theirs)


def identity(job: str) -> dict[str, str]:
    """What tells the job, which was just submitted, from another with its id: as SLURM itself shows it.

    Nothing where SLURM does not answer now.
    """
    try:
        entries = scheduler.listed([os.getuid()])
    except LaunchError:
        return {}
    own = next((entry for entry in entries if entry.id.partition("_")[0] == job.partition("_")[0]), None)
    if own is None:
        return {}
    known = {"cluster": scheduler.cluster() or "", "user": own.user, "name": own.name, "folder": own.folder}
    return {key: value for key, value in known.items() if value}


@lru_cache
def user_name(number: int) -> str:
    """The name of a user, or the number where this machine knows none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@dataclass(frozen=True)
class Answer:
    """SLURM's entries of jobs, and why it says nothing of others; it knows no more of those that are in neither.

    no_answer: why SLURM does not answer at all; empty where it does.
    """

    entries: Mapping[Job, Entry] = field(default_factory=dict)
    unknown: Mapping[Job, str] = field(default_factory=dict)
    no_answer: str = ""

    @property
    def alive(self) -> dict[Job, Entry]:
        """The jobs that wait or run."""
        return {job: entry for job, entry in self.entries.items() if entry.alive}


def ask(jobs: Iterable[Job], ended: bool = True) -> Answer:
    """Ask SLURM, once for all. `ended`: the accounting too, of what is no longer in the queue.

    SLURM is not asked if none of the jobs is one of its own: they ran without it.
    """
    own = [job for job in dict.fromkeys(jobs) if job.is_slurms]
    if not own:
        return Answer()
    try:
        listed = scheduler.listed({os.getuid(), *(int(job.user) for job in own if job.user.isdecimal())})
    except LaunchError as error:
        over = {job: entry for job, entry in _accounted(own).items() if not entry.alive} if ended else {}
        why = str(error).partition(";")[0]
        return Answer(over, {job: f"SLURM does not answer ({why})" for job in own if job not in over}, str(error))
    here = scheduler.cluster() if any(job.cluster for job in own) else None
    elsewhere = {
        job: f"job {job.id} is of cluster {job.cluster}, this is {here}: ask there"
        for job in own
        if here and job.cluster not in ("", here)
    }
    of_this_cluster = [job for job in own if job not in elsewhere]
    entries = _fitting(of_this_cluster, listed)
    if ended:
        entries |= _accounted([job for job in of_this_cluster if job not in entries])
    return Answer(entries, elsewhere)


def alive(jobs: Iterable[Job]) -> dict[Job, Entry]:
    """The jobs that wait or run here. Raises LaunchError: SLURM does not answer."""
    answer = ask(jobs, ended=False)
    if answer.no_answer:
        raise LaunchError(answer.no_answer)
    return answer.alive


def _accounted(jobs: Sequence[Job]) -> dict[Job, Entry]:
    return _fitting(jobs, scheduler.accounted(dict.fromkeys(job.id for job in jobs)))


def _fitting(jobs: Iterable[Job], entries: Iterable[Entry]) -> dict[Job, Entry]:
    by_id = {entry.id: entry for entry in entries}
    return {job: by_id[job.id] for job in jobs if job.id in by_id and job.is_of(by_id[job.id])}
