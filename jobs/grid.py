"""The runs of an ablation, or of a stage of a search: trained here, one after another, or submitted as one array."""

import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import ablation_report, lookup, parallel, sbatch, scheduler, submission
from jobs.queue import foreground, preflight
from jobs.queue.items import Item
from jobs.resources import Resources
from jobs.submission import Submission
from jobs.submit import check_before, waiting
from segtrain.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, LaunchError
from segtrain.run import AblationRecord, Member, Spec, write_record, write_results
from segtrain.runtime import files
from segtrain.runtime.terminal import show


class _Results:
    """Keeps results.csv up to date while the runs are trained."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members

    def look(self, at_work: Sequence[Path]) -> None:
        """Nothing is due before a run has ended."""

    def push(self, run: Path) -> None:
        """Write the table."""
        write_results(self._members)


def refused(spec: Path, problems: Mapping[str, str]) -> bool:
    """Whether there are variants that cannot be trained; prints a line on each."""
    for variant, problem in problems.items():
        show(f"segtrain: error: {spec}: variant {variant}: {problem}", errors=True)
    return bool(problems)


@dataclass(frozen=True)
class Grid:
    """Runs that are to be trained, with what they may use. `path`: the spec that they come from.

    `only`: the names of those that may be trained, all by default; the others belong to the table alone.
    """

    path: Path
    spec: Spec
    members: Sequence[Member]
    requested: Resources
    record: AblationRecord
    only: Collection[str] | None = None

    @property
    def folder(self) -> Path:
        """Where the runs lie."""
        return self.members[0].run.root.parent

    @property
    def _runs_dir(self) -> str:
        return str(self.folder.parent)

    def train(self, with_report: bool = True) -> int:
        """Train what is missing on this machine, one run after another; the exit code."""
        sbatch.check("local", self.requested)
        may = [member.cfg for member in self.members if self._may(member.cfg.name)]
        items = [Item(cfg.name, cfg, self.requested.processes) for cfg in may]
        with foreground.listening() as stop:
            problems = preflight.problems(items, self.requested.processes, stop)
            if refused(self.path, _by_variant(self.members, problems)):
                return EXIT_USER_ERROR
            busy = waiting(self._runs_dir, self.spec.name, [item.name for item in items])
            finished = {member.cfg.name for member in self.members if member.run.finished(member.cfg)}
            due = [item for item in items if item.name not in {*busy, *finished}]
            show(self._state(finished, busy))
            if not due:
                show(f"Nothing to train. Results: {write_results(self.members)}")
                _say_how_to_report(self.folder)
                return EXIT_FINISHED
            snapshot = self._snapshot()
            files.make_folder(self.folder)
            write_record(self.folder, self.record)
            code = foreground.train(snapshot, due, stop, _Results(self.members))
        without = code == EXIT_STOPPED or not with_report  # whoever stops it does not wait for pictures
        show(f"Results: {write_results(self.members) if without else ablation_report.write(str(snapshot.root))}")
        return code

    def report(self) -> str:
        """Bring table and report up to date; the path of the page."""
        return ablation_report.write(str(self._snapshot().root))

    def submit(
        self, max_parallel: int, dry_run: bool, follow: Callable[[Submission, Mapping[str, str]], None] | None = None
    ) -> int:
        """Submit what is missing as one array, or print its script; the exit code.

        `follow`: submits what comes after those runs, given them with their jobs; by default the job for the report.
        """
        busy = waiting(self._runs_dir, self.spec.name, [member.cfg.name for member in self.members])
        candidates = [member for member in self.members if member.cfg.name not in busy and self._may(member.cfg.name)]
        finished = {member.cfg.name for member in self.members if member.run.finished(member.cfg)}
        due = [member.cfg.name for member in candidates if member.cfg.name not in finished]
        share = parallel.share(self._runs_dir, self.spec.name, max_parallel, busy)
        requested = share.applied(self.requested)
        planned = submission.planned(self._runs_dir, self.spec.name)
        script = sbatch.script(planned, self.spec.name, requested, len(due) or 1, share.limit)
        if dry_run:
            sys.stdout.write(f"{script}\n")  # to the letter, for sbatch
            return EXIT_FINISHED
        sbatch.check("slurm", requested)
        if due:
            check_before([member.cfg for member in self.members if member.cfg.name in due], requested, script)
        show(self._state(finished, busy))
        files.make_folder(self.folder)
        write_record(self.folder, self.record)
        follow = follow or self._submit_report
        if not due:
            show(f"Nothing to submit. Results: {write_results(self.members)}")
            self._catch_up(busy, follow)
            return EXIT_FINISHED
        snapshot = self._snapshot(requested)
        jobs = sbatch.submit(snapshot, due, share.limit)
        snapshot.keep(max_parallel=share.limit)
        if sentence := share.sentence(max_parallel):
            show(sentence)
        for name, job in jobs.items():
            show(f"Submitted job {job}: {self.folder / name}")
        show(f"Logs:  {shlex.quote(str(snapshot.logs))}, each by the name of its run: {due[0]}.out")
        show(f"State: {shlex.join(['segtrain', 'status', self._runs_dir])}")
        follow(snapshot, busy | jobs)
        return EXIT_FINISHED

    def _state(self, finished: Collection[str], busy: Collection[str]) -> str:
        """How many runs there are of each kind; those that are not tried again have failed."""
        done = {*finished, *busy}
        failed = sum(not self._may(member.cfg.name) and member.cfg.name not in done for member in self.members)
        counts = {"finished": len(finished), "in the queue": len(busy), "failed": failed}
        parts = [f"{count} {what}" for what, count in counts.items() if count or what == "finished"]
        return f"{self.spec.name}: {len(self.members)} runs, {', '.join(parts)}"

    def _may(self, name: str) -> bool:
        return self.only is None or name in self.only

    def _snapshot(self, requested: Resources | None = None) -> Submission:
        rows = [
            {"variant": m.variant, "fold": m.fold, "seed": m.seed, "repeat": m.repeat, "name": m.cfg.name}
            for m in self.members
        ]
        configs = [member.cfg for member in self.members]
        return submission.create(self._runs_dir, self.spec.name, configs, requested or self.requested, members=rows)

    def _submit_report(self, snapshot: Submission, jobs: Mapping[str, str]) -> None:
        """Submit the job that makes the report after those; where SLURM refuses it, print how to do without."""
        try:
            job = sbatch.submit_report(snapshot, jobs)
        except LaunchError as error:  # a partition that takes no job without GPUs, say
            show(f"segtrain: warning: the runs are submitted, no job for the report is: {error}", errors=True)
            show(f"When all have ended: {_report_command(self.folder)}")
            return
        show(f"Results and report, when all have ended (job {job}): {_page(self.folder)}")

    def _catch_up(self, busy: Mapping[str, str], follow: Callable[[Submission, Mapping[str, str]], None]) -> None:
        """Where no job waits to follow: submit it if runs are busy, else say how to make a report that is missing."""
        newest = self._newest()
        job = newest.report_job() if newest else None
        if job and job.id != scheduler.this_job() and lookup.alive([job]):
            return
        if newest and busy:
            follow(newest, busy)
        else:
            _say_how_to_report(self.folder)

    def _newest(self) -> Submission | None:
        """The newest submission under that name whose jobs SLURM or this machine took."""
        taken = [one for _, one in submission.of_name(Path(self._runs_dir), self.spec.name).values()]
        return max(taken, key=lambda one: one.root, default=None)


def _by_variant(members: Sequence[Member], problems: Mapping[str, str]) -> dict[str, str]:
    """The first problem of each variant."""
    first: dict[str, str] = {}
    for member in members:
        if member.cfg.name in problems:
            first.setdefault(member.variant, problems[member.cfg.name])
    return first


def _say_how_to_report(folder: Path) -> None:
    if not _page(folder).exists():
        show(f"There is no report yet: {_report_command(folder)}")


def _page(folder: Path) -> Path:
    return folder / ablation_report.REPORT / "index.html"


def _report_command(folder: Path) -> str:
    return shlex.join(["segtrain", "report", str(folder), "--out", str(folder / ablation_report.REPORT)])
