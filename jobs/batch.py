"""Questions of the templates in slurm/ on the compute node, so that their jobs and submitit's follow the same rules.

python -m jobs.batch run [--config F] [--fresh] [key=value ...]   the run's directory
python -m jobs.batch member SPEC INDEX [key=value ...]            writes the config of an ablation's run, says where
python -m jobs.batch begin RUN                                    a folder for the ranks; refuses a start in vain
python -m jobs.batch end RUN --code N [--asked SIGNAL]            requeues, or not; the run's exit code
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs import scheduler
from jobs.history import History
from jobs.requeue import conclude, start_end
from segtrain.config import load_config, to_yaml
from segtrain.errors import EXIT_FINISHED, ConfigError, LaunchError
from segtrain.run import Run, expand
from segtrain.runtime import files
from segtrain.runtime.process import main


def command(argv: Sequence[str]) -> int:
    """Answer one question of a batch script; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m jobs.batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    questions = parser.add_subparsers(dest="question", required=True)
    run = questions.add_parser("run")
    run.add_argument("--config", type=Path)
    run.add_argument("--fresh", action="store_true")  # the training's
    run.add_argument("overrides", nargs="*")
    member = questions.add_parser("member")
    member.add_argument("spec", type=Path)
    member.add_argument("index", type=int)
    member.add_argument("overrides", nargs="*")
    questions.add_parser("begin").add_argument("run", type=Path)
    end = questions.add_parser("end")
    end.add_argument("run", type=Path)
    end.add_argument("--code", type=int, required=True)
    end.add_argument("--asked", default="")
    question, *rest = argv or [""]
    own_parser = {"run": run, "member": member, "end": end}.get(question)  # intermixed, which subparsers cannot do
    arguments = own_parser.parse_intermixed_args(rest) if own_parser else parser.parse_args(list(argv))
    answers = {"run": _run, "member": _member, "begin": _begin, "end": _end}
    return answers[question](arguments)


def _run(arguments: argparse.Namespace) -> int:
    cfg = load_config(arguments.config, arguments.overrides)
    print(Run.of(cfg).root.absolute())
    return EXIT_FINISHED


def _member(arguments: argparse.Namespace) -> int:
    spec, members = expand(arguments.spec, arguments.overrides)
    if not 0 <= arguments.index < len(members):
        raise ConfigError(
            f"{arguments.spec}: {spec.name} has {len(members)} runs, none is number {arguments.index}; "
            f"submit with --array=0-{len(members) - 1}"
        )
    member = members[arguments.index]
    config = member.run.root.with_name(f"{member.cfg.name}.yaml").absolute()
    files.make_folder(config.parent)
    files.write_text(config, to_yaml(member.cfg))
    print(config)
    return EXIT_FINISHED


def _begin(arguments: argparse.Namespace) -> int:
    history, job = History(Run(arguments.run)), _job()
    history.begin(job)
    folder = history.start_folder(job, scheduler.restarts())
    files.make_folder(folder)
    print(folder)
    return EXIT_FINISHED


def _end(arguments: argparse.Namespace) -> int:
    history, job = History(Run(arguments.run)), _job()
    signal = arguments.asked or None
    end = start_end(history.start_folder(job, scheduler.restarts()), arguments.code, signal)
    if arguments.code and not end.ranks and not signal:
        end = replace(end, lost=scheduler.dead_nodes())
    if signal:  # the script's own STOP, which the training may have left without reading
        history.run.stop_file.unlink(missing_ok=True)
    code, sentence = conclude(history, job, end)
    print(f"{arguments.run.name}: {sentence} (exit code {code})")
    return code


def _job() -> str:
    job = scheduler.this_job()
    if job is None:
        raise LaunchError("SLURM_JOB_ID is not set: only a batch script can ask this; submit it with sbatch")
    return job


if __name__ == "__main__":
    sys.exit(main(command))
