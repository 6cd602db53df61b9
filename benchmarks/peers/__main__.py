"""Time the same training in segtrain and in other programs by turns: docs/performance.md describes the rows.

python -m benchmarks.peers --lgg /data/kaggle_3m --json peers.json
python -m benchmarks.peers --only segtrain monai --patients 6 --epochs 1      # phantom patients
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Options, machine, refuse_no_patients
from benchmarks.peers.commands import NAMES, SEGTRAIN, Peer, commands, find, marks_of_run
from benchmarks.peers.environments import Place, UnavailableError
from benchmarks.peers.figures import figures
from benchmarks.peers.plan import Sizes, plan
from benchmarks.peers.rows import table
from benchmarks.peers.watch import Watched, watch
from benchmarks.peers.work import Work

TINY = Sizes(patients=3, size_px=32, batch=8, epochs=1, features=4)


class FailedError(Exception):
    """A command of a peer failed; the message is its last line."""


def run_round(peer: Peer, work: Work, folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """From the raw folder to a scored model once, in an empty folder. Raises FailedError."""
    scratch = folder / "scratch" / peer.name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    work_file = scratch / "work.json"
    work.write(work_file)
    stages: dict[str, Watched] = {}
    for command in commands(peer, work, work_file, scratch):
        watched = watch(command.argv, {**variables, **command.environment}, scratch, command.stage)
        if watched.error is not None:
            raise FailedError(f"{command.stage}: {watched.error}")
        stages[command.stage] = watched
    if peer.name in SEGTRAIN:
        train = stages["train"]
        train.marks = [*_of_segtrain(work), *marks_of_run(scratch, work, train)]
    return figures(work, stages)


def _of_segtrain(work: Work) -> list[dict[str, Any]]:
    """Its versions and the operations of its network, which its run does not count."""
    from importlib.metadata import version

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segtrain.config import ModelConfig
    from segtrain.models.make import make_model

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        make_model(ModelConfig(features=work.features), 0).eval()(torch.zeros(1, 3, work.size_px, work.size_px))
    versions = {"torch": version("torch"), "numpy": version("numpy")}
    return [{"phase": "network", "gflop": counter.get_total_flops() / 1e9}, {"phase": "versions", "packages": versions}]


def measure(peers: dict[str, Any], work: Work, place: Place, arguments: Any) -> Iterator[str]:
    """Fill in what each peer says and does, in rounds by turns; a line after each. One that fails is not run again."""
    # Threads that spin at a barrier would count as CPU seconds while another program has the core.
    variables = {"OMP_WAIT_POLICY": "PASSIVE"} if arguments.busy else {}
    ready: dict[str, Peer] = {}
    for name, peer in peers.items():
        try:
            ready[name] = find(name, work, place, arguments.reference and arguments.reference.resolve())
            peer["note"] = ready[name].note
        except UnavailableError as error:
            peer["failed"] = f"not run: {error}"
    yield f"ready: {', '.join(ready) or 'nothing'}"
    for turn in range(arguments.rounds):
        for name in list(ready):
            started = time.monotonic()
            try:
                peers[name]["rounds"].append(run_round(ready[name], work, place.folder, variables))
            except FailedError as error:
                peers[name]["failed"] = f"failed: {error}"
                del ready[name]
            yield f"round {turn + 1}, {name}: {time.monotonic() - started:.0f} s"


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--lgg", type=Path, help="folder of real patients (kaggle_3m); default: phantom patients")
    options.add_argument("--patients", type=int, default=12, help="a quarter of them is scored (12)")
    options.add_argument("--size", type=int, default=128, help="side of an image in pixels (128)")
    options.add_argument("--batch", type=int, default=16, help="images a step (16)")
    options.add_argument("--epochs", type=int, default=2, help="(2)")
    options.add_argument("--features", type=int, default=32, help="of the network's first stage (32)")
    options.add_argument("--rounds", type=int, default=2, help="turns of each; the best is reported (2)")
    options.add_argument("--only", nargs="+", choices=NAMES, help="default: all, bf16 where the CPU has AMX")
    options.add_argument("--reference", type=Path, help="folder of the reference program; default: cloned")
    options.add_argument("--no-install", action="store_true", help="run only what has an environment already")
    options.add_argument("--busy", action="store_true", help="other work runs: judge by CPU time, let no thread spin")
    options.add_argument("--json", type=Path, help="write the results to this file")
    options.add_argument("--folder", type=Path, default=Path(".bench"), help="environments and scratch files (.bench)")
    options.add_argument("--tiny", action="store_true", help="test the comparison itself: its figures mean nothing")
    return options


def main() -> None:
    options = parser()
    arguments = options.parse_args()
    refuse_no_patients(options, arguments.lgg)
    folder = arguments.folder.resolve()
    place = Place(folder / "peers", not arguments.no_install)
    place.folder.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(arguments.patients, arguments.size, arguments.batch, arguments.epochs, arguments.features)
    work = plan(Options(1, arguments.lgg, folder, arguments.tiny), TINY if arguments.tiny else sizes)
    where = machine()
    names = arguments.only or [name for name in NAMES if name != "segtrain-bf16" or where["vector_units"] == "amx_bf16"]
    results: dict[str, Any] = {
        "machine": where,
        "tiny": arguments.tiny,
        "judged_by": "cpu" if arguments.busy else "wall",
        "data": "real" if arguments.lgg else "made up",
        "work": {**asdict(work), "raw": ""},
        "load": [round(each, 1) for each in os.getloadavg()],
        "peers": {name: {"note": "", "failed": "", "rounds": []} for name in names},
    }
    for line in measure(results["peers"], work, place, arguments):
        print(line, file=sys.stderr, flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


def show(results: dict[str, Any]) -> None:
    heading, *lines = table(results)
    shown = Table(*heading)
    for line in lines:
        shown.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 240).print(shown)
    for name, peer in results["peers"].items():
        if peer["failed"] or peer["note"]:
            print(f"{name}: {peer['failed'] or peer['note']}")


if __name__ == "__main__":
    main()
