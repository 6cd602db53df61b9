"""What the templates in slurm/ ask on the compute node, so that they and submitit's jobs come back by the same rules.

python -m jobs.batch run [--config F] [--fresh] [key=value ...]   the run's directory
python -m jobs.batch member SPEC INDEX [key=value ...]            writes the config of an ablation's run, says where
python -m jobs.batch begin RUN                                    a folder for the ranks' words; refuses a vain start
python -m jobs.batch end RUN --code N [--asked SIGNAL]            requeues if that is worth it; the run's exit code
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import scheduler
from jobs.entry import main
from jobs.history import Book
from jobs.requeue import Ended, settle, told_in
from segtrain.config import load_config, to_yaml
from segtrain.errors import EXIT_FINISHED, ConfigError, LaunchError
from segtrain.run import Run, expand
from segtrain.runtime import files


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
    chosen = {"run": run, "member": member, "end": end}.get(question)
    arguments = chosen.parse_intermixed_args(rest) if chosen else parser.parse_args(list(argv))
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
    given = member.run.root.with_name(f"{member.cfg.name}.yaml").absolute()
    given.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(given, to_yaml(member.cfg))
    print(given)
    return EXIT_FINISHED


def _begin(arguments: argparse.Namespace) -> int:
    book, job = Book(Run(arguments.run)), _job()
    book.begin(job)
    folder = book.start_folder(job, scheduler.restarts())
    folder.mkdir(parents=True, exist_ok=True)
    print(folder)
    return EXIT_FINISHED


def _end(arguments: argparse.Namespace) -> int:
    book, job = Book(Run(arguments.run)), _job()
    ranks, words = told_in(book.start_folder(job, scheduler.restarts()))
    lost = scheduler.dead_nodes() if arguments.code and not ranks and not arguments.asked else []
    if arguments.asked:  # the script's own STOP, which the training may have left without reading
        book.run.stop_file.unlink(missing_ok=True)
    code, what = settle(book, job, Ended(arguments.code, ranks, arguments.asked or None, lost, words))
    print(f"{arguments.run.name}: {what} (exit code {code})")
    return code


def _job() -> str:
    job = scheduler.this_job()
    if job is None:
        raise LaunchError("SLURM_JOB_ID is not set: this is asked by a batch script; submit it with sbatch")
    return job


if __name__ == "__main__":
    sys.exit(main(command))
