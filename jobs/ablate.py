"""Submit an ablation as one array, or what is missing of it: `python -m jobs.ablate SPEC`."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from jobs import ablation_report, executors, resources, scheduler, submission
from jobs.entry import main
from jobs.submission import Submission
from jobs.submit import add_options, placed, waiting
from segtrain.commands.ablate import refused
from segtrain.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, LaunchError
from segtrain.run import Member, expand, missing, write_results

EXAMPLES = """\
examples:
  python -m jobs.ablate configs/ablation/loss.yaml --cluster gpu --max-parallel 8 data.root=/data/kaggle_3m
  python -m jobs.ablate configs/ablation/loss.yaml --dry-run data.root=/data/kaggle_3m
  python -m jobs.ablate configs/ablation/loss.yaml --executor local data.root=/data/kaggle_3m

One job of an array for each run that is neither finished nor in the queue, so the same command again submits what is
missing or has failed. When all have ended, another job brings <runs_dir>/<name of the spec>/results.csv up to date and
makes the report beside it, report/index.html. Where SLURM refuses that job, the command that makes the report is told.
"""


def command(argv: Sequence[str]) -> int:
    """Submit, print the script, or train here; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m jobs.ablate", description="Submit the runs of an ablation to SLURM.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML: base, variants, folds, seeds")
    parser.add_argument("--max-parallel", type=int, default=0, metavar="N", help="runs at a time; default: no limit")
    add_options(parser)
    arguments = parser.parse_intermixed_args(list(argv))
    if arguments.max_parallel < 0:
        parser.error("--max-parallel: at least 1")
    spec, members = expand(arguments.spec, arguments.overrides)
    members, asked = [replace(member, cfg=placed(member.cfg)) for member in members], resources.of(arguments)
    runs_dir = str(Path(members[0].cfg.runs_dir).parent)
    if refused(arguments.spec, missing(members)):
        return EXIT_USER_ERROR
    busy = waiting(runs_dir, spec.name, [member.cfg.name for member in members])
    due = [m for m in members if m.cfg.name not in busy and not m.run.finished(m.cfg)]
    if arguments.dry_run:
        planned = submission.planned(runs_dir, spec.name)
        print(executors.script(planned, spec.name, asked, len(due) or 1, arguments.max_parallel))
        return EXIT_FINISHED
    executors.check(arguments.executor, asked)
    print(f"{spec.name}: {len(members)} runs, {len(members) - len(busy) - len(due)} finished, {len(busy)} in the queue")
    folder = members[0].run.root.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not due:
        print(f"Nothing to submit. Results: {write_results(members)}")
        _catch_up(_newest(runs_dir, spec.name), folder, busy)
        return EXIT_FINISHED
    made = submission.create(runs_dir, spec.name, [m.cfg for m in members], asked, members=[_row(m) for m in members])
    names = [member.cfg.name for member in due]
    if arguments.executor == "local":
        code = executors.run_here(made, names)
        stopped = code == EXIT_STOPPED  # whoever stops it does not wait for pictures
        print(f"Results: {write_results(members) if stopped else ablation_report.write(str(made.root))}")
        return code
    jobs = executors.submit(made, names, arguments.max_parallel)
    for name, job in jobs.items():
        print(f"Submitted job {job}: {folder / name}")
    _have_it_reported(made, busy | jobs, folder)
    return EXIT_FINISHED


def _have_it_reported(made: Submission, jobs: Mapping[str, str], folder: Path) -> None:
    """Submit the job that comes after those; where SLURM refuses it, say so and how to do without: the runs are in."""
    try:
        last = executors.submit_table(made, jobs)
    except LaunchError as error:  # a partition that takes no job without GPUs, say
        print(f"segtrain: warning: the runs are submitted, no job for the report is: {error}", file=sys.stderr)
        print(f"When all have ended: {_by_hand(folder)}")
        return
    made.keep(report=last)
    print(f"Results and report, when all have ended (job {last}): {_page(folder)}")


def _catch_up(made: Submission | None, folder: Path, busy: Mapping[str, str]) -> None:
    """Where no job waits to make the report: submit it if runs are busy, else say how to make what is not there."""
    job = made.record.get("report") if made else None
    if job and job in scheduler.queued([job]):
        return
    if made and busy:
        _have_it_reported(made, busy, folder)
    elif not _page(folder).exists():
        print(f"There is no report yet: {_by_hand(folder)}")


def _newest(runs_dir: str, name: str) -> Submission | None:
    """The newest submission under that name whose jobs SLURM or this machine took."""
    found = [made for _, made in submission.of_name(Path(runs_dir), name).values()]
    return max(found, key=lambda made: made.root, default=None)


def _page(folder: Path) -> Path:
    return folder / ablation_report.REPORT / "index.html"


def _by_hand(folder: Path) -> str:
    return shlex.join(["segtrain", "report", str(folder), "--out", str(folder / ablation_report.REPORT)])


def _row(member: Member) -> dict[str, object]:
    return {key: value for key, value in asdict(member).items() if key != "cfg"} | {"name": member.cfg.name}


if __name__ == "__main__":
    sys.exit(main(command))
