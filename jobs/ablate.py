"""An ablation, here or as one array of jobs: `segtrain ablate SPEC`, or `python -m jobs.ablate`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs import ablation_report, confirm, plan, resources, sbatch
from jobs.checks import missing_on_nodes
from jobs.grid import Grid, refused
from jobs.submit import add_options, placed
from segtrain.errors import EXIT_FINISHED, EXIT_USER_ERROR
from segtrain.run import AblationRecord, Member, Spec, differences, expand, missing
from segtrain.run.layout import refuse_run
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show, show_table, show_text

EXAMPLES = """\
examples:
  segtrain ablate configs/ablation/loss.yaml data.root=/data/kaggle_3m --dry-run
  segtrain ablate configs/ablation/loss.yaml data.root=/data/kaggle_3m --nproc 4
  segtrain ablate configs/ablation/procedure.yaml data.root=/data/kaggle_3m train.epochs=10
  segtrain ablate configs/ablation/loss.yaml --cluster gpu --max-parallel 8 data.root=/data/kaggle_3m
  segtrain ablate configs/ablation/search.yaml data.root=/data/kaggle_3m --confirm

The same command again trains what is missing or has failed. Runs of one fold and seed draw the same slices in the same
order, so their differences are paired. Results: <runs_dir>/<name of the spec>/results.csv, and report/index.html beside
it when all runs have ended.

Before it starts, a table shows the difference that it can find with 80% power, and what other numbers of folds and
seeds could: from the spreads of an earlier report (--spreads), or of this ablation's own, else of small runs on LGG.
Below it stands the cheapest design that finds a difference of --find.

The best of many variants was chosen on the patients that score it. Where the spec's folds leave some, --confirm trains
that variant and the baseline on the others, as an ablation of its own, <name of the spec>-confirm: its verdict is the
one to quote. `confirm:` in the spec gives it other folds, seeds, repeats or overrides.

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
    parser, arguments = _arguments(argv)
    for_slurm = resources.any_given(arguments) or arguments.max_parallel > 0
    executor = arguments.executor or ("slurm" if for_slurm else "local")
    if executor == "slurm" and arguments.nproc:
        parser.error("--nproc: is for runs that are trained here; on a cluster use --processes-per-node")
    if executor == "local":
        resources.refuse_here(arguments)
        if arguments.max_parallel:
            parser.error("--max-parallel: is for a cluster; --executor local trains one run at a time; leave it out")
    spec, members = expand(arguments.spec, arguments.overrides)
    confirm.refuse_wrong(arguments.spec, spec, arguments.overrides)
    record = confirm.record_of(spec, members, ["segtrain", "ablate", *argv, confirm.OPTION])
    if arguments.confirm:
        confirmation = confirm.of_search(arguments.spec, spec, members, arguments.overrides)
        spec, members, record = confirmation.spec, confirmation.members, confirmation.record
        show(confirmation.sentence, errors=True)
    folder = members[0].run.root.parent
    refuse_run(folder, arguments.spec, "ablation")
    requested = resources.of(arguments)
    lacking = missing_on_nodes(members, requested) if executor == "slurm" else missing(members)
    if refused(arguments.spec, lacking):
        return EXIT_USER_ERROR
    if executor == "local" or not arguments.dry_run:  # there the standard output is the script
        show_text(plan.show(spec, members, _own_report(folder, record), arguments.spreads, arguments.find))
    if arguments.dry_run and executor == "local":
        _list(spec, members)
        return EXIT_FINISHED
    members = [replace(member, cfg=placed(member.cfg)) for member in members]
    if arguments.nproc and executor == "local":
        requested = replace(requested, processes_per_node=arguments.nproc)
    grid = Grid(arguments.spec, spec, members, requested, record)
    return grid.submit(arguments.max_parallel, arguments.dry_run) if executor == "slurm" else grid.train()


def _arguments(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line, with numbers that make sense."""
    parser = _parser()
    arguments = parser.parse_intermixed_args(list(argv))
    if arguments.max_parallel < 0:
        parser.error("--max-parallel: at least 1")
    if not 0 < arguments.find < 1:
        parser.error("--find: a difference of two scores, above 0 and below 1")
    if arguments.nproc is not None and arguments.nproc < 1:
        parser.error("--nproc: at least 1")
    return parser, arguments


def _own_report(folder: Path, record: AblationRecord) -> Path:
    """The report whose spreads are those of these recipes: the ablation's own, or that of its search."""
    own = folder / ablation_report.REPORT
    return Path(record.search.folder) / ablation_report.REPORT if record.search and not own.exists() else own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "segtrain ablate",
        description="Train the runs of an ablation, here or on a cluster.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML: base, variants, folds, seeds or repeats")
    parser.add_argument("--nproc", type=int, metavar="N", help="here: processes a run (torchrun), default 1")
    parser.add_argument("--executor", choices=sbatch.NAMES, help="default: slurm with an option for it, else local")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, or print the sbatch script")
    parser.add_argument(
        "--spreads", type=Path, metavar="REPORT", help="an earlier report, whose spreads the power is computed from"
    )
    parser.add_argument(
        "--find",
        type=float,
        default=plan.FIND,
        metavar="D",
        help=f"the difference of mean DSC that a design is proposed for, default {plan.FIND:g}",
    )
    parser.add_argument(
        confirm.OPTION,
        action="store_true",
        help="train the best variant of the spec's runs and the baseline on folds that took no part in choosing it",
    )
    max_parallel_help = "runs at a time, with those in the queue; default: no limit"
    parser.add_argument("--max-parallel", type=int, default=0, metavar="N", help=max_parallel_help)
    add_options(parser)
    return parser


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


if __name__ == "__main__":
    # As a module it is a command for clusters; the last --executor counts.
    sys.exit(main(lambda argv: command(["--executor", "slurm", *argv])))
