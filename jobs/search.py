"""A search for better settings, here or on a cluster: `segtrain search SPEC`.

What is due is derived from what was drawn and from the runs: a search that is killed goes on by the same command.
"""

import argparse
import contextlib
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs import checks, confirm, resources, sbatch
from jobs.grid import Grid, refused
from jobs.history import History
from jobs.queue import foreground, preflight
from jobs.queue.items import Item
from jobs.requeue import EXIT_BUG
from jobs.resources import Resources
from jobs.submission import Submission
from jobs.submit import add_options, placed, waiting
from jobs.trials import REFUSED, Searching, Stage
from segtrain.errors import (
    EXIT_FINISHED,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    BaselineIsBest,
    ConfigError,
    DataError,
    LaunchError,
    NoFoldLeft,
    RunError,
)
from segtrain.run import missing
from segtrain.run.search import REFERENCE
from segtrain.runtime import files, lock
from segtrain.runtime.terminal import show

LOCK = ".search.lock"
EXAMPLES = """\
examples:
  segtrain search configs/search/procedure.yaml data.root=/data/kaggle_3m --dry-run
  segtrain search configs/search/procedure.yaml data.root=/data/kaggle_3m --nproc 4
  segtrain search configs/search/procedure.yaml data.root=/data/kaggle_3m --cluster gpu --max-parallel 8

A round draws some trials from the space (Optuna's TPE, which learns from the rounds before), trains all of them for the
fewest epochs, the best of each `keep` for more, and so on: each stage trains from the beginning, so that its scores are
those of whole schedules and can be compared. A trial's score is the mean DSC of its runs after their last epoch. After
the last round the best trial and the reference are trained on the folds that the search has not seen: that verdict is
the one to quote.

A trial's runs are named by the hash of its settings, and nothing but what was drawn is stored: a search that is killed,
preempted or stopped goes on by the same command, to the same result. A run that has failed or diverged loses its trial,
as does one that was killed three times, or cannot begin where the reference can. More `trials` in the spec go on
where it ended; other settings need another name.

With --cluster, or any other option for SLURM, each stage is an array, and the job after it goes on with the next, but
not where a run was cancelled or stopped: there the same command does.

exit codes: 0 the search has ended, or a stage is submitted; 75 stopped with everything saved; else as segtrain ablate.
"""


@dataclass(frozen=True)
class Command:
    """The command line of a search, and what its runs may use."""

    searching: Searching
    argv: Sequence[str]
    requested: Resources
    on_cluster: bool
    max_parallel: int
    after: Submission | None = None  # whose runs this process was to wait for, in the job that goes on

    def run(self) -> int:
        """Train or submit what is due, to the end of the search; the exit code. Raises RunError: another is at it."""
        if self.searching.next(keep=False) is None and not self.searching.trials:
            return self._conclude()  # of all that were drawn no config takes any: nothing is written
        with self._alone():
            self.searching.read()
            if self.after:
                if self._is_superseded(self.after):
                    show(f"{self.searching.spec.name}: a later submission goes on")
                    return EXIT_FINISHED
                self._refuse_what_did_not_end(self.after)
            return self._go_on()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the search's lock, which a job waits for. Raises RunError: another process has it."""
        files.make_folder(self.searching.folder)
        while (held := lock.take(self.searching.folder / LOCK)) is None:
            if not self.after:
                raise RunError(f"{self.searching.folder}: another process is at this search; wait for it, or stop it")
            time.sleep(1.0)
        try:
            yield
        finally:
            held.release()

    @staticmethod
    def _is_superseded(submission: Submission) -> bool:
        """Whether runs of the same stage were submitted later, whose own job goes on."""
        return any(int(folder.name) > int(submission.root.name) for folder in submission.root.parent.glob("[0-9]*"))

    def _refuse_what_did_not_end(self, submission: Submission) -> None:
        """Raise RunError where a run was cancelled, stopped or given up: what stopped on purpose stays stopped."""
        record = submission.record
        stage = self.searching.next()
        if stage is None or stage.spec.name != record["name"]:
            return
        runs_dir = str(submission.root.parent.parent.parent)
        busy = waiting(runs_dir, record["name"], list(record["runs"]))
        unended = [name for name in stage.due if name in record["runs"] and name not in busy]
        if unended:
            others = f" and {len(unended) - 1} others" if len(unended) > 1 else ""
            raise RunError(
                f"{self.searching.folder}: {unended[0]}{others} did not end (cancelled, stopped, or none of the "
                "stage could begin): segtrain status says why; the same command goes on"
            )

    def _go_on(self) -> int:
        """Train or submit what is due."""
        while stage := self.searching.next():
            epochs = f"{stage.epochs} epochs, {len(stage.due)} of {len(stage.members)} runs due"
            show(f"{self.searching.spec.name}: round {stage.round + 1}, {epochs}")
            members = stage.members
            lacking = checks.missing_on_nodes(members, self.requested) if self.on_cluster else missing(members)
            if refused(self.searching.path, lacking):
                return EXIT_USER_ERROR
            if self.on_cluster:
                try:
                    return self._grid(stage).submit(self.max_parallel, dry_run=False, follow=self._follow)
                except (ConfigError, LaunchError):
                    if self._loses(stage, self._refused_on_cluster):
                        continue
                    raise
            before = stage.due, stage.kills
            code = self._grid(stage).train(with_report=False)
            if code == EXIT_USER_ERROR and self._loses(stage, self._refused_here):
                continue
            if code == EXIT_STOPPED or (stage.due, stage.kills) == before:  # it would be due for ever
                return code or EXIT_BUG
        self.searching.show()
        return self._conclude()

    def _loses(self, stage: Stage, refused: Callable[[Sequence[Item]], Mapping[str, str]]) -> bool:
        """Whether trials cannot begin that are at fault themselves, since the reference can; they are lost then.

        `refused`: which of some runs cannot be trained, by name, each with the reason.
        """
        due = [member for member in stage.members if member.cfg.name in stage.due and member.variant != REFERENCE]
        new = [member for member in due if member.run.result().state == "none"]
        reference = self.searching.reference.cfg
        reference = replace(placed(reference), name=f"{reference.name}-in-comparison")  # not as a run that is there
        processes = self.requested.processes
        problems = refused([Item(cfg.name, cfg, processes) for cfg in (reference, *(one.cfg for one in new))])
        if not problems or reference.name in problems:
            return False
        for member in new:
            if problem := problems.get(member.cfg.name):
                show(f"segtrain: warning: trial {member.variant} is lost: {problem}", errors=True)
                History(member.run).end("search", REFUSED, problem)
        return any(member.cfg.name in problems for member in new)

    def _refused_here(self, items: Sequence[Item]) -> dict[str, str]:
        with foreground.listening() as stop:
            return preflight.problems(items, self.requested.processes, stop)

    def _refused_on_cluster(self, items: Sequence[Item]) -> dict[str, str]:
        problems = {}
        for item in items:
            assert item.cfg is not None, "a trial has a config"
            try:
                list(checks.check_run(item.cfg, self.requested))
            except (ConfigError, DataError, LaunchError) as error:
                problems[item.name] = str(error)
        return problems

    def _grid(self, stage: Stage) -> Grid:
        words = ["segtrain", "search", *self.argv]
        record = confirm.record_of(stage.spec, stage.members, words)
        return Grid(self.searching.path, stage.spec, stage.members, self.requested, record, stage.due)

    def _conclude(self) -> int:
        """Report the last stage, and train or submit the confirmation; the exit code.

        Raises ConfigError, RunError: that cannot be confirmed.
        """
        stage = self.searching.last()
        if stage is None:
            show(f"{self.searching.spec.name}: no trial has reached the last stage; read the logs of those that failed")
            return EXIT_BUG
        grid = self._grid(stage)
        if not self.on_cluster:
            show(f"Results: {grid.report()}")
        try:
            return self._confirm(stage)
        finally:
            if self.on_cluster:  # afterwards, since its pictures may not fit into the job's time
                show(f"Results: {grid.report()}")

    def _confirm(self, stage: Stage) -> int:
        """Train or submit the best and the reference on the folds that are left; the exit code."""
        members = [member for member in stage.members if member.variant not in stage.lost]
        try:
            confirmation = confirm.of_search(self.searching.path, stage.spec, members, self.searching.overrides)
        except (NoFoldLeft, BaselineIsBest) as error:
            show(str(error))
            return EXIT_FINISHED
        show(confirmation.sentence)
        members = [replace(member, cfg=placed(member.cfg)) for member in confirmation.members]
        last = Grid(self.searching.path, confirmation.spec, members, self.requested, confirmation.record)
        return last.submit(self.max_parallel, dry_run=False) if self.on_cluster else last.train()

    def _follow(self, submission: Submission, jobs: Mapping[str, str]) -> None:
        """Submit the job that goes on when those have ended; where SLURM refuses it, print the command that does."""
        by_hand = f"When all have ended: {shlex.join(['segtrain', 'search', *self.argv])}"
        if self.requested.python or any(key.startswith("container") for key in self.requested.srun):
            show(f"A job in a container may have no sbatch, so none goes on. {by_hand}")
            return
        try:
            job = sbatch.submit_after(submission, jobs, go_on, str(Path.cwd()), str(submission.root), *self.argv)
        except LaunchError as error:
            show(f"segtrain: warning: the runs are submitted, the job that goes on is not: {error}", errors=True)
            show(by_hand)
            return
        show(f"The search goes on when all have ended (job {job})")


def go_on(folder: str, root: str, *argv: str) -> None:
    """The same command, in the job after the runs of a submission. Raises RunError where it fails."""
    os.chdir(folder)
    after = Submission(Path(root))
    os.environ.setdefault("SEGTRAIN_COMMIT", after.record["commit"] or "")
    if code := command(argv, after):
        raise RunError(f"segtrain search {shlex.join(argv)}: ended with {code}; see above")


def command(argv: Sequence[str], after: Submission | None = None) -> int:
    """Search, here or on a cluster, or list what is due; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain search",
        description="Search a space of settings, and confirm the best on patients that took no part.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML: base, space, trials, epochs, folds")
    parser.add_argument("--nproc", type=int, metavar="N", help="here: processes a run (torchrun), default 1")
    parser.add_argument("--dry-run", action="store_true", help="list the trials and what is due; write nothing")
    parser.add_argument("--max-parallel", type=int, default=0, metavar="N", help="runs at a time; default: no limit")
    add_options(parser)
    arguments = parser.parse_intermixed_args(list(argv))
    on_cluster = resources.any_given(arguments) or arguments.max_parallel > 0
    if arguments.nproc is not None and (arguments.nproc < 1 or on_cluster):
        parser.error("--nproc: at least 1, for runs that are trained here; on a cluster use --processes-per-node")
    if arguments.max_parallel < 0:
        parser.error("--max-parallel: at least 1")
    searching = Searching(arguments.spec, arguments.overrides)
    if arguments.dry_run:
        stage = searching.next(keep=False)
        searching.show()
        show(f"due: {len(stage.due)} runs of {stage.epochs} epochs" if stage else "due: nothing but the confirmation")
        return EXIT_FINISHED
    requested = resources.of(arguments)
    if arguments.nproc:
        requested = replace(requested, processes_per_node=arguments.nproc)
    return Command(searching, argv, requested, on_cluster, arguments.max_parallel, after).run()
