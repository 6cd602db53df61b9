"""Queues whose runs are processes of milliseconds: they leave a run directory behind and end as they are told to."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs import local
from jobs.history import History
from jobs.offline import __main__ as offline
from jobs.offline import wrap_up
from jobs.queue import runner
from jobs.submission import Submission

# What a start does: one word for each start of a run, the last one for all further ones.
#   finish, or an exit code; single: finishes with a score of one patient; kill: dies by SIGKILL;
#   stop:REASON: was stopped, and a rank says for that reason; vain: the history gives it up;
#   gain: waits to be stopped, then saves; deaf: is never stopped;
#   parent: the same, and the queue gets SIGTERM
STAND_IN = """
import json, os, pathlib, signal, sys, time
root, config, words, folder = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), pathlib.Path(sys.argv[4])
start_folder, job = pathlib.Path(sys.argv[5]), sys.argv[6]
count = folder / "count"
folder.mkdir(parents=True, exist_ok=True)
nth = int(count.read_text()) if count.exists() else 0
count.write_text(str(nth + 1))
word = words[min(nth, len(words) - 1)]
def save(state):
    step = 1 + max((int(f.name[5:]) for f in (root / "checkpoints").glob("step-*")), default=0)
    folder = root / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    (root / "config.yaml").write_text(pathlib.Path(config).read_text())
    event = {"event": "train", "step": step, "time": time.time(), "loss": 0.5, "lr": 0.1}
    (root / "metrics.jsonl").write_text(json.dumps(event | {"images_per_s": 1.0, "memory_gib": 0.0}) + "\\n")
    outcome = {"state": state, "step": step, "epochs": 1, "reason": None, "best_dsc": 0.5}
    (root / "outcome.json").write_text(json.dumps(outcome))
if word in ("finish", "single"):
    save("finished")
    if word == "single":
        score = {"event": "evaluation", "step": 1, "time": time.time(), "epoch": 1, "val_dsc": 0.5, "n": 1}
        score |= {"ci_low": None, "ci_high": None, "val_loss": 0.5, "best": True, "empty_masks": ""}
        with (root / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(score) + "\\n")
elif word.startswith("stop:"):
    start_folder.mkdir(parents=True)
    end = {"code": 75, "reason": word[5:], "message": "stopped, somehow"}
    (start_folder / "rank-0").write_text(json.dumps(end))
    save("stopped")
    sys.exit(75)
elif word == "vain":
    with (start_folder.parent.parent / "starts.jsonl").open("a") as file:
        end = {"event": "end", "job": job, "how": "given up", "reason": None, "why": "the last 3 starts gained no step"}
        file.write(json.dumps(end) + "\\n")
    sys.exit(75)
elif word == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif word == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "ready").touch()
    time.sleep(60)
elif word in ("gain", "parent"):
    def leave(*_):
        save("stopped")
        sys.exit(75)
    signal.signal(signal.SIGTERM, leave)
    (folder / "ready").touch()
    if word == "parent":
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
else:
    print("ValueError: it broke", flush=True)
    sys.exit(int(word))
"""


class StandIns:
    """In place of trainings: `words[run]` tells how its starts end; `began` what each was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words: dict[str, list[str]] = {}
        self.began: list[tuple[str, Mapping[str, str]]] = []
        monkeypatch.setattr(local, "start", self._start)
        monkeypatch.setattr(wrap_up, "report", lambda *_, **__: None)
        monkeypatch.setattr(runner, "POLL_EVERY_S", 0.02)

    def _start(
        self, made: Submission, name: str, start_of: tuple[str, int], environment: Mapping[str, str], **options: Any
    ) -> "subprocess.Popen[bytes]":
        self.began.append((name, environment))
        told = json.dumps(self.words.get(name, ["finish"]))
        folder = made.root.parent / "stand-ins" / name
        starts = History(made.run(name)).start_folder(*start_of)
        arguments = [str(made.run(name).root), str(made.config(name)), told, str(folder), str(starts), start_of[0]]
        return subprocess.Popen([sys.executable, "-S", "-c", STAND_IN, *arguments], **options)

    @property
    def names(self) -> list[str]:
        """The runs in the order of their starts."""
        return [name for name, _ in self.began]


def write(folder: Path, names: Sequence[str] = ("a", "b"), **keys: Any) -> Path:
    """A queue's file with runs of these names."""
    (folder / "base.yaml").write_text("device: cpu\ntrain: {epochs: 1}\n")
    tree = {
        "name": "night", "min_free_gib": 0, "overrides": {"runs_dir": str(folder / "runs")},
        "runs": [{"config": "base.yaml", "name": name} for name in names],
    }  # fmt: skip
    (folder / "queue.yaml").write_text(json.dumps(tree | keys))
    return folder / "queue.yaml"


def entries(folder: Path, event: str = "") -> list[dict[str, Any]]:
    """The journal, or its entries of one kind."""
    lines = (folder / "runs" / "night" / "journal.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if event in ("", entry["event"])]


def ends(folder: Path) -> list[tuple[str, str]]:
    """How each start ended."""
    return [(entry["run"], entry["how"]) for entry in entries(folder, "end")]


def command(queue: Path, *arguments: str) -> int:
    """`python -m jobs.offline` in this process; its exit code."""
    return offline.command([str(queue), *arguments])
