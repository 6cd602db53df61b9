"""Runs for tests of a queue's mirror: directories with all that training leaves, made in milliseconds by a script.

A run's files follow from its name and step alone, so that one that was moved, cut off and mended ends as `whole` says.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs import local
from jobs.offline import wrap_up
from jobs.offline.location import Location
from jobs.queue import runner
from jobs.submission import Submission

STEPS = 6  # of a whole run
BEST = 2

# Trains on from the newest whole checkpoint, as segtrain does: keeps the last two and the best.
SCRIPT = """
import hashlib, json, os, pathlib, shutil, signal, sys, time
root, config, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
steps, best, until, parent = map(int, sys.argv[4:8])
checkpoints, validation = root / "checkpoints", root / "validation"
checkpoints.mkdir(parents=True, exist_ok=True)
validation.mkdir(exist_ok=True)
def sha256(data):
    return hashlib.sha256(data).hexdigest()
def whole(folder):
    try:
        about = json.loads((folder / "manifest.json").read_text())
        return len(about) == 3 and all(sha256((folder / name).read_bytes()) == about[name]["sha256"] for name in about)
    except (OSError, ValueError):
        return False
def put(file, text):
    aside = file.with_name("." + file.name)
    aside.write_text(text)
    aside.rename(file)
step = 0
for folder in sorted(checkpoints.glob("step-*")):
    if whole(folder):
        step = int(folder.name[5:])
    else:
        folder.rename(folder.with_name(f"bad-{folder.name}-{time.time_ns()}"))
def event(step):
    about = {"event": "train", "step": step, "time": 1e9 + step, "loss": 1 / step, "lr": 0.1}
    return json.dumps(about | {"images_per_s": 1.0, "memory_gib": 0.0}) + "\\n"
put(root / "config.yaml", pathlib.Path(config).read_text())
put(root / "split.json", '{"hash": "0"}')
with (root / "log.txt").open("a") as log:
    log.write(f"goes on at step {step}\\n")
metrics = root / "metrics.jsonl"
lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
if len(lines) < step or any(line != event(n) for n, line in enumerate(lines[:step], 1)):
    sys.exit("metrics.jsonl is not what it was")
put(metrics, "".join(lines[:step]))
(root / "outcome.json").unlink(missing_ok=True)
while step < min(steps, until):
    step += 1
    with metrics.open("a") as file:
        file.write(event(step))
    put(validation / f"epoch-{step:04d}.csv", f"patient,dsc\\n{name},{step}\\n")
    folder = checkpoints / f"step-{step:08d}"
    aside = checkpoints / f".{folder.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    tensors = ("model.safetensors", "optimizer.safetensors")
    files = {part: f"{part} of {name} at {step} ".encode() * 99 for part in tensors}
    files["state.json"] = json.dumps({"step": step}).encode()
    for part, data in files.items():
        (aside / part).write_bytes(data)
    about = {part: {"bytes": len(data), "sha256": sha256(data)} for part, data in files.items()}
    (aside / "manifest.json").write_text(json.dumps(about))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    put(checkpoints / "LATEST", folder.name + "\\n")
    if step == best:
        put(checkpoints / "BEST", folder.name + "\\n")
    for old in sorted(checkpoints.glob("step-*"))[:-2]:
        if int(old.name[5:]) != best:
            shutil.rmtree(old)
state = "finished" if step == steps else "stopped"
outcome = {"state": state, "step": step, "epochs": step, "reason": None, "best_dsc": 0.5}
put(root / "outcome.json", json.dumps(outcome))
if state == "stopped":
    if parent:
        os.kill(parent, signal.SIGTERM)
    sys.exit(75)
"""


class Trainings:
    """In place of trainings: each start of a run makes its files up to step `until[run]`, then has the queue stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.until: dict[str, int] = {}
        self.names: list[str] = []
        monkeypatch.setattr(local, "start", self._start)
        monkeypatch.setattr(wrap_up, "report", lambda *_, **__: None)
        monkeypatch.setattr(runner, "POLL_EVERY_S", 0.02)

    def _start(
        self, made: Submission, name: str, start_of: object, environment: Mapping[str, str], **options: Any
    ) -> "subprocess.Popen[bytes]":
        self.names.append(name)
        root, config = made.run(name).root, made.config(name)
        return subprocess.Popen(script(root, config, name, self.until.get(name, STEPS), os.getpid()), **options)


def script(root: Path, config: Path, name: str, until: int, parent: int = 0) -> list[str]:
    """The command of one start."""
    numbers = map(str, (STEPS, BEST, until, parent))
    return [sys.executable, "-S", "-c", SCRIPT, str(root), str(config), name, *numbers]


def made(root: Path, until: int = STEPS) -> Path:
    """A run's directory, trained to a step."""
    root.mkdir(parents=True, exist_ok=True)
    config = root.parent / "config-of-runs.yaml"
    config.write_text("name: any\ndevice: cpu\ntrain: {epochs: 6}\n")
    subprocess.run(script(root, config, root.name, until), check=False)
    return root


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder that are there for its readers."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {file: file.relative_to(folder) for file in files}
    return {str(name): file.read_bytes() for file, name in names.items() if not any(p[0] == "." for p in name.parts)}


def results(folder: Path) -> dict[str, bytes]:
    """The same of a run, without what tells of its starts and its damages."""
    return {
        name: content
        for name, content in tree(folder).items()
        if name != "log.txt" and not name.startswith("checkpoints/bad-")
    }


def needed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a run without the checkpoint before the last."""
    return {name: data for name, data in files.items() if f"step-{STEPS - 1:08d}" not in name}


def flip(file: Location) -> None:
    """Damage a file, which keeps its size."""
    content = file.read()
    file.fs.pipe_file(file.path, bytes([content[0] ^ 1]) + content[1:])


def lose(file: Location) -> None:
    file.remove()


def content(folder: Location) -> dict[str, bytes]:
    return {name: (folder / name).read() for name in folder.listing()}
