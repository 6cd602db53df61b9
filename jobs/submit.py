"""Submit one training, which comes back until it is done: `segtrain submit`, or `python -m jobs.submit`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs import checks, lookup, resources, sbatch, submission
from jobs.queue import foreground
from jobs.queue.items import Item
from jobs.resources import Resources
from segtrain.commands.arguments import config_of
from segtrain.config import Config
from segtrain.config.paths import expanded
from segtrain.errors import EXIT_FINISHED
from segtrain.run import Run
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show

EXAMPLES = """\
examples:
  segtrain submit --cluster gpu --config configs/lgg.yaml data.root=/data/kaggle_3m
  segtrain submit --nodes 2 --gpus-per-node 4 --time 8:00:00 --partition gpu --slurm reservation=mri name=big
  segtrain submit --gpus-per-node a100:4 --python 'apptainer exec --nv image.sif python' --srun cpu-bind=none
  segtrain submit --dry-run                    # prints the sbatch script
  segtrain submit --executor local             # the same here, without a cluster

Before it submits, it checks data, weights, ranks and what the partition gives (docs/slurm.md). Options count more
than SBATCH_* variables.

The job carries a snapshot of the code and of the resolved config. It saves and goes back into the queue when it is
preempted, near its time limit, or told to by a signal, and goes on at the exact step; it stops coming back when it is
done, has failed, or gains no step in three starts. The same command again submits it only if there is something to do.
"""


def command(argv: Sequence[str]) -> int:
    """Submit, print the script, or train here; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain submit",
        description="Submit one training to SLURM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="F", help="YAML file (default: the phantom run)")
    parser.add_argument("--fresh", action="store_true", help="start over; the old run is kept beside")
    parser.add_argument("--executor", choices=sbatch.NAMES, default="slurm", help="default slurm; local: here")
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script; submit and write nothing")
    add_options(parser)
    arguments = parser.parse_intermixed_args(list(argv))
    if arguments.executor == "local":
        resources.refuse_here(arguments)
    cfg, requested = placed(config_of(arguments)), resources.of(arguments)
    if arguments.dry_run:
        script = sbatch.script(submission.planned(cfg.runs_dir, cfg.name), cfg.name, requested)
        sys.stdout.write(f"{script}\n")  # to the letter, for sbatch
        return EXIT_FINISHED
    sbatch.check(arguments.executor, requested)
    run = Run.of(cfg)
    if not arguments.fresh and run.finished(cfg):
        show(f"{run.root} is finished; nothing to submit")
        return EXIT_FINISHED
    if job := waiting(cfg.runs_dir, cfg.name, [cfg.name]).get(cfg.name):
        show(f"{run.root} is job {job} already; nothing to submit")
        return EXIT_FINISHED
    if arguments.executor == "slurm":
        planned = submission.planned(cfg.runs_dir, cfg.name)
        check_before([cfg], requested, sbatch.script(planned, cfg.name, requested))
    snapshot = submission.create(cfg.runs_dir, cfg.name, [cfg], requested, fresh=arguments.fresh)
    if arguments.executor == "local":
        with foreground.listening() as stop:
            return foreground.train(snapshot, [Item(cfg.name, cfg, requested.processes, fresh=arguments.fresh)], stop)
    job = sbatch.submit(snapshot, [cfg.name])[cfg.name]
    show(f"Submitted job {job}: {run.root}")
    show(f"Log:   {shlex.quote(f'{snapshot.logs}/{job}_0_log.out')}")
    show(f"State: {shlex.join(['segtrain', 'status', cfg.runs_dir])}")
    return EXIT_FINISHED


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that submitting one run and submitting many have in common."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, for example optim.lr=1e-3")
    resources.add_options(parser)


def check_before(configs: Sequence[Config], requested: Resources, script: str) -> None:
    """Refuse jobs that would fail, or wait forever, and print warnings. Raises ConfigError, DataError, LaunchError."""
    for line in [*sbatch.rules(script), *checks.check(configs, requested, script)]:
        show(f"segtrain: warning: {line}", errors=True)


def placed(cfg: Config) -> Config:
    """The config with a runs_dir that means the same wherever the job's commands are typed."""
    return replace(cfg, runs_dir=str(expanded(cfg.runs_dir).absolute()))


def waiting(runs_dir: str, name: str, runs: Sequence[str]) -> dict[str, str]:
    """Which of the runs, submitted under that name before, are still in the queue: run to job and state."""
    jobs = {run: job for run, (job, _) in submission.of_name(Path(runs_dir), name).items()}
    queue = lookup.alive(jobs.values())
    return {run: f"{jobs[run].id} ({queue[jobs[run]].state})" for run in runs if jobs.get(run) in queue}


if __name__ == "__main__":
    sys.exit(main(command))
