"""The command `segtrain ablate`: an ablation's runs listed, or trained here one after another."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segtrain.config import to_yaml
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, RunError
from segtrain.run import Member, Spec, differences, expand, missing, write_results
from segtrain.runtime import files
from segtrain.runtime.terminal import as_title

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
WORSE = (EXIT_FINISHED, EXIT_DIVERGED, EXIT_USER_ERROR, 1)  # exit codes of runs, the last the worst
EXAMPLES = """\
examples:
  segtrain ablate configs/ablation/loss.yaml data.root=/data/kaggle_3m --dry-run
  segtrain ablate configs/ablation/loss.yaml data.root=/data/kaggle_3m --nproc 4
  segtrain ablate configs/ablation/procedure.yaml data.root=/data/kaggle_3m train.epochs=10

All variants are checked before the first run: those that cannot be trained here are named, and nothing is trained. The
same command again trains what is missing. Runs of one fold and seed draw the same slices in the same order, so their
differences are paired. Results: <runs_dir>/<name of the spec>/results.csv, brought up to date after each run.
"""


def command(argv: Sequence[str]) -> int:
    """List or train the runs; returns the exit code: of the first that was stopped, else the worst."""
    parser = argparse.ArgumentParser(
        "segtrain ablate", description="Train the runs of an ablation one after another.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML: base, variants, folds, seeds")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all runs, for example train.epochs=10")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what they are; train nothing")
    parser.add_argument("--nproc", type=int, default=1, metavar="N", help="processes a run (torchrun), default 1")
    arguments = parser.parse_intermixed_args(list(argv))
    if arguments.nproc < 1:
        parser.error("--nproc: at least 1")
    spec, members = expand(arguments.spec, arguments.overrides)
    if refused(arguments.spec, missing(members)):
        return EXIT_USER_ERROR
    if arguments.dry_run:
        _list(spec, members)
        return EXIT_FINISHED
    problems, asked = _rehearse(members, arguments.nproc)
    if asked:
        print("segtrain: stopped before the first run; the same command goes on from there", file=sys.stderr)
        return EXIT_STOPPED
    if refused(arguments.spec, problems):
        return EXIT_USER_ERROR
    return _train_all(members, arguments.nproc)


def refused(spec: Path, problems: Mapping[str, str]) -> bool:
    """Whether there are variants that cannot be trained; a line each says why."""
    for variant, reason in problems.items():
        print(f"segtrain: error: {spec}: variant {variant}: {reason}", file=sys.stderr)
    return bool(problems)


def _rehearse(members: Sequence[Member], nproc: int) -> tuple[dict[str, str], bool]:
    """Variants that training would refuse, each with its reason, and whether this process was asked to stop.

    Runs that are finished are left out, so that there may be nothing to ask. Raises CalledProcessError: a bug.
    """
    problems: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="segtrain-ablate-") as folder:
        due = {}
        for member in members:
            try:
                if not member.run.finished(member.cfg):
                    due[member.cfg.name] = member.variant
                    Path(folder, f"{member.cfg.name}.yaml").write_text(to_yaml(member.cfg))
            except RunError as error:
                problems.setdefault(member.variant, str(error))
        if not due:
            return problems, False
        found = Path(folder, "problems.json")
        argv = [sys.executable, "-m", "segtrain.training.preflight", folder, str(nproc), str(found)]
        code, asked = _watched(argv)
        if asked:
            return {}, True
        if code:
            raise subprocess.CalledProcessError(code, argv)
        for name, reason in json.loads(found.read_text()).items():
            problems.setdefault(due[name], reason)
    return {m.variant: problems[m.variant] for m in members if m.variant in problems}, False


def _list(spec: Spec, members: Sequence[Member]) -> None:
    title = f"{spec.name}: {len(members)} runs in {members[0].cfg.runs_dir}"
    table = Table(
        "run", "state", "best DSC", f"differs from {members[0].variant} in", title=as_title(title), title_justify="left"
    )
    for member in members:
        result = member.result()
        changes = " ".join(f"{key}={value}" for key, value in differences(member, members[0]).items())
        dsc = "" if result.best_dsc is None else f"{result.best_dsc:.4f}"
        table.add_row(*map(Text, (member.cfg.name, result.state, dsc, changes)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _train_all(members: Sequence[Member], nproc: int) -> int:
    worst, others_worked = EXIT_FINISHED, False
    for number, member in enumerate(members, start=1):
        print(f"[{number}/{len(members)}] {member.run.root}", flush=True)
        starts = len(member.run.starts())
        code, asked = _train(member, nproc)
        table = write_results(members)
        began = len(member.run.starts()) > starts
        state = member.run.result().state if began or not code else "failed before it began"
        if asked or state == "stopped" or code == EXIT_STOPPED:
            print("segtrain: stopped; the same command goes on from there", file=sys.stderr)
            return EXIT_STOPPED
        if code and not began and not others_worked:  # they would fail alike
            return code
        others_worked |= began or not code
        if code:
            print(f"segtrain: {member.cfg.name} ended as {state} (exit code {code}); going on", file=sys.stderr)
            told = EXIT_DIVERGED if state == "diverged" else code if code == EXIT_USER_ERROR else 1
            worst = max(worst, told, key=WORSE.index)
    print(f"Results: {table.resolve()}")
    return worst


def _train(member: Member, nproc: int) -> tuple[int, bool]:
    """The exit code of the training command on the member's config, and whether this process was asked to stop."""
    given = member.run.root.with_name(f"{member.cfg.name}.yaml")
    given.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(given, to_yaml(member.cfg))
    launcher = [] if nproc == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={nproc}"]
    return _watched([sys.executable, *launcher, "-m", "segtrain.train", "--config", str(given)])


def _watched(argv: Sequence[str]) -> tuple[int, bool]:
    """The exit code of a command, and whether this process was asked to stop.

    Whatever the signal, the command gets SIGTERM: torchrun passes that on, and dies of others.
    """
    asked: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if process is not None and number != signal.SIGINT:  # a terminal's Ctrl-C is for the whole group already
            process.terminate()

    kept = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        process = subprocess.Popen(argv)
        if asked:  # before there was a process to tell
            process.terminate()
        return process.wait(), bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
