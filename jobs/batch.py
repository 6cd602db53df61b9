"""Questions of the templates in slurm/ on the compute node, so that their jobs and submitit's follow the same rules.

python -m jobs.batch run [--config F] [--fresh] [key=value ...]   the run's directory
python -m jobs.batch member SPEC INDEX [key=value ...]            writes the config of an ablation's run, says where
python -m jobs.batch begin RUN                                    a folder for the ranks; refuses a start in vain
python -m jobs.batch end RUN --code N [--asked SIGNAL] [--again SCRIPT ...]
                                                                  requeues or resubmits, or not; the run's exit code
"""

import argparse
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from jobs import scheduler
from jobs.history import History
from jobs.requeue import SIGNALS, Resubmission, StartEnd, conclude, start_end
from jobs.takeover import take_over
from segtrain.config import load_config, to_yaml
from segtrain.errors import EXIT_FINISHED, ConfigError, LaunchError
from segtrain.run import Run, expand
from segtrain.runtime import files
from segtrain.runtime.process import main
from segtrain.runtime.stop import Stop
from segtrain.runtime.terminal import show

MAX_MIN = 365 * 24 * 60  # of a job without a limit


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
    end.add_argument("--again", nargs=argparse.REMAINDER, default=(), help="the script and its arguments")
    question, *rest = argv or [""]
    own_parser = {"run": run, "member": member}.get(question)  # intermixed, which subparsers cannot do
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
    # Into the job's log, where jobs.logs looks for the newest start.
    show(f"{arguments.run.name}: job {job}, restart {scheduler.restarts()}", errors=True)
    folder = history.start_folder(job, scheduler.restarts())
    files.make_folder(folder)
    stop = Stop()
    stop.listen()
    if not take_over(history.run, lambda: stop.reason() is not None):
        code, sentence = conclude(history, job, StartEnd(1, [], held=True))
        show(f"{arguments.run.name}: {sentence} (exit code {code})", errors=True)
        return code
    history.begin(job, slurm=scheduler.in_batch_script())
    print(folder)
    return EXIT_FINISHED


def _end(arguments: argparse.Namespace) -> int:
    history, job = History(Run(arguments.run)), _job()
    by_signal = f"SIG{arguments.asked}" if arguments.asked else _killed_by(arguments.code)
    end = start_end(history.start_folder(job, scheduler.restarts()), arguments.code, by_signal)
    if arguments.code and not end.ranks and not end.signal:
        end = replace(end, lost=scheduler.dead_nodes())
    again = Resubmission(_sbatch(job, *arguments.again)) if arguments.again else None
    code, sentence = conclude(history, job, end, again)
    show(f"{arguments.run.name}: {sentence} (exit code {code})")
    return code


# sbatch's options, which may stand on its command line alone, and the variables in which a job finds them.
OPTIONS = {
    "job-name": "SLURM_JOB_NAME", "partition": "SLURM_JOB_PARTITION", "account": "SLURM_JOB_ACCOUNT",
    "qos": "SLURM_JOB_QOS", "nodes": "SLURM_JOB_NUM_NODES", "cpus-per-task": "SLURM_CPUS_PER_TASK",
    "mem": "SLURM_MEM_PER_NODE", "mem-per-cpu": "SLURM_MEM_PER_CPU", "array": "SLURM_ARRAY_TASK_ID",
}  # fmt: skip
ASKS_FOR_GPUS = re.compile(r"\s(--gres[= ]\S*gpu|--gpus(-per-(node|task|socket))?[= ]|-G)")


def _sbatch(job: str, script: str, *arguments: str) -> list[str]:
    """The command that submits a template's job again, to go on when this one has ended."""
    options = {option: value for option, name in OPTIONS.items() if (value := os.environ.get(name))}
    if gpus := _gpus(Path(script)):
        options["gpus-per-node"] = gpus
    more = ["--parsable", f"--dependency=afterany:{job}"]
    minutes = scheduler.time_limit_s(job) / 60
    if minutes < MAX_MIN:  # else it has none, or SLURM does not say it: the script's own counts
        more.append(f"--time={math.ceil(minutes)}")
    pairs = [f"--{option}={value}" for option, value in options.items()]
    return ["sbatch", *more, *pairs, script, *(word for word in arguments if word != "--fresh")]


def _gpus(script: Path) -> str:
    """GPUs a node, with their type where the job was given one; "" where the script asks for them in its own lines."""
    if per_node := os.environ.get("SLURM_GPUS_PER_NODE"):
        return per_node
    with suppress(OSError):
        lines = script.read_text(encoding="utf-8", errors="replace").splitlines()
        if any(line.startswith("#SBATCH") and ASKS_FOR_GPUS.search(line) for line in lines):
            return ""
    return os.environ.get("SLURM_GPUS_ON_NODE", "")


def _killed_by(code: int) -> str | None:
    """The signal by which a step ended before slurm/node.sh listened; none of those that a fault sends."""
    return next((reason.name for reason in SIGNALS if code == 128 + signal.Signals[reason.name]), None)


def _job() -> str:
    job = scheduler.this_job()
    if job is None:
        raise LaunchError("SLURM_JOB_ID is not set: only a batch script can ask this; submit it with sbatch")
    return job


if __name__ == "__main__":
    sys.exit(main(command))
