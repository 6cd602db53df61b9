"""The commands of each peer, and what segtrain's own run says in place of marks."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import environments
from benchmarks.peers.environments import Place, UnavailableError, python_of
from benchmarks.peers.watch import Watched
from benchmarks.peers.work import Work

SEGTRAIN = ("segtrain", "segtrain-bf16")
NAMES = (*SEGTRAIN, "reference", "monai", "nnunet")
TITLES = {
    "segtrain": "segtrain",
    "segtrain-bf16": "segtrain, bf16",
    "reference": "reference",
    "monai": "MONAI",
    "nnunet": "nnU-Net",
}


@dataclass(frozen=True)
class Peer:
    """A program that can be run: its Python, its own folder, and what is to be said about it."""

    name: str
    python: Path
    program: Path | None = None
    note: str = ""


@dataclass(frozen=True)
class Command:
    """A command and its environment variables. `stage` is prepare or train."""

    stage: str
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def find(name: str, work: Work, place: Place, reference: Path | None) -> Peer:
    """The peer, ready to run. Raises UnavailableError: it cannot be had here."""
    if name in SEGTRAIN:
        return Peer(name, Path(sys.executable))
    if name != "reference":
        return Peer(name, python_of(name, place))
    try:
        program = environments.reference_program(place, reference, len(work.validation))
        return Peer(name, python_of(name, place), program, "its own train.py, patched (benchmarks/peers/patches.py)")
    except UnavailableError as error:
        note = f"benchmarks/reference.py in place of its train.py, in segtrain's environment: {error}"
        return Peer(name, Path(sys.executable), note=note)


def commands(peer: Peer, work: Work, work_file: Path, scratch: Path) -> list[Command]:
    """From the raw folder to a scored model, in their order."""
    if peer.name in SEGTRAIN:
        return _segtrain(peer, work, scratch)
    module = [str(peer.python), "-m", "benchmarks.peers."]

    def run(name: str, *arguments: object) -> list[str]:
        return [*module[:2], module[2] + name, *map(str, arguments)]

    path = {"PYTHONPATH": str(environments.ROOT)}
    if peer.name == "monai":
        return [Command("train", run("monai_program", work_file), path)]
    if peer.name == "nnunet":
        cores = len(os.sched_getaffinity(0))
        folders = {f"nnUNet_{kind}": str(scratch / kind) for kind in ("raw", "preprocessed", "results")}
        variables = {**path, **folders, "nnUNet_def_n_proc": str(cores), "nnUNet_n_proc_DA": str(cores)}
        return [Command(stage, run("nnunet_program", stage, work_file), variables) for stage in ("prepare", "train")]
    if peer.program is None:
        return [Command("train", run("plain_program", work_file), path)]
    return [Command("train", run("reference_program", work_file, peer.program, scratch), path)]


def _segtrain(peer: Peer, work: Work, scratch: Path) -> list[Command]:
    split = scratch / "split.json"
    split.write_text(json.dumps({"train": work.train, "validation": work.validation}))
    data = [
        "--config",
        "lgg",
        f"data.root={work.raw}",
        f"data.image_size={work.size_px}",
        "data.split=file",
        f"data.split_file={split}",
    ]
    train = [
        f"model.features={work.features}",
        f"train.epochs={work.epochs}",
        f"train.global_batch={work.batch}",
        f"optim.lr={work.lr}",
        f"runs_dir={scratch}",
        "log_every_steps=1",
        "device=cpu",
    ]
    if peer.name == "segtrain-bf16":
        train.append("precision=bf16")
    program = [str(peer.python), "-m", "segtrain"]
    path = {"PYTHONPATH": str(environments.ROOT)}
    prepared = f"data.store={scratch / 'prepared'}"
    # The last is one command, as users give it: it prepares first, for another store.
    return [
        Command("prepare", [*program, "prepare", *data, prepared], path),
        Command("train", [*program, "train", *data, prepared, *train, "name=run"], path),
        Command("whole", [*program, "train", *data, f"data.store={scratch / 'other'}", *train, "name=whole"], path),
    ]


def marks_of_run(scratch: Path, work: Work, watched: Watched) -> list[dict[str, Any]]:
    """The marks that a peer would have left, from the events of segtrain's run; times of the monotonic clock."""
    file = scratch / "run" / "metrics.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    marks: list[dict[str, Any]] = []
    for event in events:
        at, images = event["time"] - watched.began_unix + watched.began, event["step"] * work.batch
        if event["event"] == "evaluation":
            marks.append({"phase": "evaluated", "at": at, "dsc": event["val_dsc"]})
            marks.append({"phase": "resumed", "at": at})
        elif event["step"] == 1:
            marks.append({"phase": "first_step", "at": at})
        if event["event"] == "train" and event["step"] % work.steps == 0:
            marks.append({"phase": "trained", "at": at, "images": images})
    return marks
