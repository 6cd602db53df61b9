"""Submit an ablation as one array, or what is missing of it: `python -m jobs.ablate SPEC`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from jobs import executors, resources, submission, table
from jobs.entry import main
from jobs.submit import add_options, placed, waiting
from segtrain.ablate import write_results
from segtrain.ablation import Member, expand
from segtrain.errors import EXIT_FINISHED

EXAMPLES = """\
examples:
  python -m jobs.ablate configs/ablation/loss.yaml --cluster gpu --max-parallel 8 data.root=/data/kaggle_3m
  python -m jobs.ablate configs/ablation/loss.yaml --dry-run data.root=/data/kaggle_3m
  python -m jobs.ablate configs/ablation/loss.yaml --executor local data.root=/data/kaggle_3m

One job of an array for each run that is neither finished nor in the queue, so the same command again submits what is
missing or has failed. When all have ended, another job brings <runs_dir>/<name of the spec>/results.csv up to date and
makes the report beside it, report/index.html.
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
    busy = waiting(runs_dir, spec.name, [member.cfg.name for member in members])
    due = [m for m in members if m.cfg.name not in busy and not m.run.finished(m.cfg)]
    if arguments.dry_run:
        planned = submission.planned(runs_dir, spec.name)
        print(executors.script(planned, spec.name, asked, len(due) or 1, arguments.max_parallel))
        return EXIT_FINISHED
    executors.check(arguments.executor, asked)
    print(f"{spec.name}: {len(members)} runs, {len(members) - len(busy) - len(due)} finished, {len(busy)} in the queue")
    members[0].run.root.parent.mkdir(parents=True, exist_ok=True)
    if not due:
        print(f"Nothing to submit. Results: {write_results(members)}")
        return EXIT_FINISHED
    made = submission.create(runs_dir, spec.name, [m.cfg for m in members], asked, members=[_row(m) for m in members])
    names = [member.cfg.name for member in due]
    if arguments.executor == "local":
        code = executors.run_here(made, names)
        print(f"Results: {table.write(str(made.root))}")
        return code
    jobs = executors.submit(made, names, arguments.max_parallel)
    for name, job in jobs.items():
        print(f"Submitted job {job}: {Path(members[0].cfg.runs_dir) / name}")
    last = executors.submit_table(made, jobs)
    page = Path(members[0].cfg.runs_dir) / table.REPORT / "index.html"
    print(f"Results and report, when all have ended (job {last}): {page}")
    return EXIT_FINISHED


def _row(member: Member) -> dict[str, object]:
    return {key: value for key, value in asdict(member).items() if key != "cfg"} | {"name": member.cfg.name}


if __name__ == "__main__":
    sys.exit(main(command))
