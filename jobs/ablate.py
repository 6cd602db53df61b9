"""An ablation, here or as one array of jobs: `segtrain ablate SPEC`, or `python -m jobs.ablate`."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jobs import ablation_report, plan, resources, sbatch, scheduler, submission
from jobs.queue import foreground, preflight
from jobs.queue.items import Item
from jobs.resources import Resources
from jobs.submission import Submission
from jobs.submit import add_options, placed, waiting
from segtrain.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, LaunchError
from segtrain.run import Member, Spec, differences, expand, missing, write_results
from segtrain.runtime import files
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show_table

EXAMPLES = """\
examples:
  segtrain ablate configs/ablation/loss.yaml data.root=/data/kaggle_3m --dry-run
  segtrain ablate configs/ablation/loss.yaml data.root=/data/kaggle_3m --nproc 4
  segtrain ablate configs/ablation/procedure.yaml data.root=/data/kaggle_3m train.epochs=10
  segtrain ablate configs/ablation/loss.yaml --cluster gpu --max-parallel 8 data.root=/data/kaggle_3m

The same command again trains what is missing or has failed. Runs of one fold and seed draw the same slices in the same
order, so their differences are paired. Results: <runs_dir>/<name of the spec>/results.csv, and report/index.html beside
it when all runs have ended.

Before it starts, a table shows the difference that it can find with 80% power, and what other numbers of folds and
seeds could: from the spreads of an earlier report (--spreads), or of this ablation's own, else of small runs on LGG.

Here the runs are trained one after another, and results.csv is brought up to date after each. All variants are checked
before the first run: those that cannot be trained here are named, and nothing is trained. A run that fails does not end
the others, unless it is the first and has not even begun; a signal and the STOP file of a run end them all. A run that
stops by a stop.deadline of so many hours goes on in another start while it gains steps.

With --cluster, or any other option for SLURM, they are submitted as one array, an element for each run that is neither
finished nor in the queue; another job then makes the report. Where SLURM refuses that job, the command that makes the
report is printed. `python -m jobs.ablate` submits without such an option too, unless it gets --executor local.

exit codes, of runs that were trained here: 0 all finished; 75 stopped with everything saved, the same command goes on;
else that of the worst run: 1 a bug, 2 a mistake of the user's, 3 diverged.
"""


def command(argv: Sequence[str]) -> int:
    """List, train here, submit, or print the script; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain ablate",
        description="Train the runs of an ablation, here or on a cluster.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML: base, variants, folds, seeds")
    parser.add_argument("--nproc", type=int, metavar="N", help="here: processes a run (torchrun), default 1")
    parser.add_argument("--executor", choices=sbatch.NAMES, help="default: slurm with an option for it, else local")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, or print the sbatch script")
    parser.add_argument(
        "--spreads", type=Path, metavar="REPORT", help="an earlier report, whose spreads the power is computed from"
    )
    parser.add_argument("--max-parallel", type=int, default=0, metavar="N", help="runs at a time; default: no limit")
    add_options(parser)
    arguments = parser.parse_intermixed_args(list(argv))
    if arguments.max_parallel < 0:
        parser.error("--max-parallel: at least 1")
    if arguments.nproc is not None and arguments.nproc < 1:
        parser.error("--nproc: at least 1")
    for_slurm = resources.any_given(arguments) or arguments.max_parallel > 0
    executor = arguments.executor or ("slurm" if for_slurm else "local")
    if executor == "slurm" and arguments.nproc:
        parser.error("--nproc: is for runs that are trained here; on a cluster use --processes-per-node")
    spec, members = expand(arguments.spec, arguments.overrides)
    requested = resources.of(arguments)
    if _refused(arguments.spec, missing(members)):
        return EXIT_USER_ERROR
    folder = members[0].run.root.parent
    if executor == "local" or not arguments.dry_run:  # there the standard output is the script
        print(plan.show(spec, members, folder / ablation_report.REPORT, arguments.spreads))
    if arguments.dry_run and executor == "local":
        _list(spec, members)
        return EXIT_FINISHED
    members = [replace(member, cfg=placed(member.cfg)) for member in members]
    if executor == "slurm":
        return _submit(spec, members, requested, arguments.max_parallel, arguments.dry_run)
    if arguments.nproc:
        requested = replace(requested, processes_per_node=arguments.nproc)
    return _train_here(arguments.spec, spec, members, requested)


def _refused(spec: Path, problems: Mapping[str, str]) -> bool:
    """Whether there are variants that cannot be trained; prints a line on each."""
    for variant, problem in problems.items():
        print(f"segtrain: error: {spec}: variant {variant}: {problem}", file=sys.stderr)
    return bool(problems)


def _list(spec: Spec, members: Sequence[Member]) -> None:
    title = f"{spec.name}: {len(members)} runs in {members[0].cfg.runs_dir}"
    rows = []
    for member in members:
        result = member.run.result()
        changes = " ".join(f"{key}={value}" for key, value in differences(member, members[0]).items())
        dsc = "" if result.best_dsc is None else f"{result.best_dsc:.4f}"
        dsc += f" ({result.best_parts})" if result.best_parts else ""
        rows.append((member.cfg.name, result.state, dsc, changes))
    show_table(title, rows, ("run", "state", "best DSC", f"differs from {members[0].variant} in"))


class _Results:
    """Keeps results.csv up to date while the runs are trained."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members

    def look(self, at_work: Sequence[Path]) -> None:
        """Nothing is due before a run has ended."""

    def push(self, run: Path) -> None:
        """Write the table."""
        write_results(self._members)


def _train_here(path: Path, spec: Spec, members: Sequence[Member], requested: Resources) -> int:
    """Train what is missing on this machine, one run after another; the exit code."""
    sbatch.check("local", requested)
    items = [Item(member.cfg.name, member.cfg, requested.processes) for member in members]
    folder = members[0].run.root.parent
    with foreground.listening() as stop:
        problems = preflight.problems(items, requested.processes, stop)
        if _refused(path, _by_variant(members, problems)):
            return EXIT_USER_ERROR
        busy = waiting(str(folder.parent), spec.name, [item.name for item in items])
        finished = {member.cfg.name for member in members if member.run.finished(member.cfg)}
        due = [item for item in items if item.name not in busy and item.name not in finished]
        in_queue = f", {len(busy)} in the queue" if busy else ""
        print(f"{spec.name}: {len(items)} runs, {len(finished)} finished{in_queue}", flush=True)
        if not due:
            print(f"Nothing to train. Results: {write_results(members)}")
            _say_how_to_report(folder)
            return EXIT_FINISHED
        snapshot = _snapshot(spec, members, requested)
        files.make_folder(folder)
        code = foreground.train(snapshot, due, stop, _Results(members))
    stopped = code == EXIT_STOPPED  # whoever stops it does not wait for pictures
    print(f"Results: {write_results(members) if stopped else ablation_report.write(str(snapshot.root))}")
    return code


def _by_variant(members: Sequence[Member], problems: Mapping[str, str]) -> dict[str, str]:
    """The first problem of each variant."""
    first: dict[str, str] = {}
    for member in members:
        if member.cfg.name in problems:
            first.setdefault(member.variant, problems[member.cfg.name])
    return first


def _submit(spec: Spec, members: Sequence[Member], requested: Resources, max_parallel: int, dry_run: bool) -> int:
    """Submit what is missing as one array, or print its script; the exit code."""
    folder = members[0].run.root.parent
    runs_dir = str(folder.parent)
    busy = waiting(runs_dir, spec.name, [member.cfg.name for member in members])
    due = [m.cfg.name for m in members if m.cfg.name not in busy and not m.run.finished(m.cfg)]
    if dry_run:
        planned = submission.planned(runs_dir, spec.name)
        print(sbatch.script(planned, spec.name, requested, len(due) or 1, max_parallel))
        return EXIT_FINISHED
    sbatch.check("slurm", requested)
    print(f"{spec.name}: {len(members)} runs, {len(members) - len(busy) - len(due)} finished, {len(busy)} in the queue")
    files.make_folder(folder)
    if not due:
        print(f"Nothing to submit. Results: {write_results(members)}")
        _catch_up(_newest(runs_dir, spec.name), folder, busy)
        return EXIT_FINISHED
    snapshot = _snapshot(spec, members, requested)
    jobs = sbatch.submit(snapshot, due, max_parallel)
    for name, job in jobs.items():
        print(f"Submitted job {job}: {folder / name}")
    _submit_report(snapshot, busy | jobs, folder)
    return EXIT_FINISHED


def _snapshot(spec: Spec, members: Sequence[Member], requested: Resources) -> Submission:
    rows = [{"variant": m.variant, "fold": m.fold, "seed": m.seed, "name": m.cfg.name} for m in members]
    runs_dir = str(members[0].run.root.parent.parent)
    return submission.create(runs_dir, spec.name, [m.cfg for m in members], requested, members=rows)


def _submit_report(snapshot: Submission, jobs: Mapping[str, str], folder: Path) -> None:
    """Submit the job that makes the report after those; where SLURM refuses it, print how to do without."""
    try:
        job = sbatch.submit_report(snapshot, jobs)
    except LaunchError as error:  # a partition that takes no job without GPUs, say
        print(f"segtrain: warning: the runs are submitted, no job for the report is: {error}", file=sys.stderr)
        print(f"When all have ended: {_report_command(folder)}")
        return
    snapshot.keep(report=job)
    print(f"Results and report, when all have ended (job {job}): {_page(folder)}")


def _catch_up(newest: Submission | None, folder: Path, busy: Mapping[str, str]) -> None:
    """Where no job waits to make the report: submit it if runs are busy, else say how to make it if it is missing."""
    job = newest.record.get("report") if newest else None
    if job and job in scheduler.queued([job]):
        return
    if newest and busy:
        _submit_report(newest, busy, folder)
    else:
        _say_how_to_report(folder)


def _say_how_to_report(folder: Path) -> None:
    if not _page(folder).exists():
        print(f"There is no report yet: {_report_command(folder)}")


def _newest(runs_dir: str, name: str) -> Submission | None:
    """The newest submission under that name whose jobs SLURM or this machine took."""
    taken = [one for _, one in submission.of_name(Path(runs_dir), name).values()]
    return max(taken, key=lambda one: one.root, default=None)


def _page(folder: Path) -> Path:
    return folder / ablation_report.REPORT / "index.html"


def _report_command(folder: Path) -> str:
    return shlex.join(["segtrain", "report", str(folder), "--out", str(folder / ablation_report.REPORT)])


if __name__ == "__main__":
    # As a module it is a command for clusters; the last --executor counts.
    sys.exit(main(lambda argv: command(["--executor", "slurm", *argv])))
