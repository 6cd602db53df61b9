"""Runs, an ablation, a queue and a job of an earlier version: resumed, evaluated, reported and continued.

See tests/data/before_rooms/README.md for what they are and which commands made them.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from alike import TOLERANCES, assert_alike
from safetensors.torch import load_file
from test_jobs import call
from trainings import Job, run_to_end, state_of

from jobs import ablate, overview
from jobs.offline import __main__ as offline
from jobs.queue.journal import Journal
from jobs.submission import Submission
from segtrain.commands import evaluate, report
from segtrain.config import Config, ModelConfig, flatten, load_config
from segtrain.config.comparison import NEWER_KEYS
from segtrain.data.prepare import ensure_store
from segtrain.models.make import make_model
from segtrain.run import Run

DATA = Path(__file__).parent / "data" / "before_rooms"
ROOT = Path(__file__).resolve().parent.parent
WHEN_MADE_S = datetime.fromisoformat("2026-11-29T02:50:00+00:00").timestamp()
MADE_WITH = ("2.13.0+cpu", "GenuineIntel 6 167")  # torch; vendor, family and model of the CPU


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of all these runs, prepared by the current code."""
    folder: Path = tmp_path_factory.mktemp("old") / "prepared"
    ensure_store(replace(load_config(DATA / "small.yaml").data, store=str(folder)))
    return folder


@pytest.fixture
def before(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the old code worked, which is where this process and the commands work now."""
    folder = tmp_path / "before"
    shutil.copytree(DATA, folder)
    (folder / "prepared").symlink_to(prepared)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def bitwise(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether the current code, trained from scratch on this machine, gives the old run's bits.

    With the torch and the kind of CPU that made the old run it has to.
    """
    folder: Path = tmp_path_factory.mktemp("scratch")
    overrides = ["name=unbroken", f"data.store={prepared}"]
    now = state_of(run_to_end(folder, load_config(DATA / "small.yaml", overrides), 1))
    old = state_of(DATA / "runs" / "unbroken")
    assert_alike(now, old, bitwise=False)
    if same := all(torch.equal(tensor, old["model"][name]) for name, tensor in now["model"].items()):
        assert_alike(now, old, bitwise=True)
    assert same or (torch.__version__, cpu()) != MADE_WITH, "the same seed gives other weights than it did"
    return same


def cpu() -> str:
    """Vendor, family and model of this machine's CPU, as far as it says."""
    text = Path("/proc/cpuinfo").read_text()
    return " ".join(dict(re.findall(r"^(vendor_id|cpu family|model)\s*: (.*)$", text, re.MULTILINE)).values())


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a folder, with the moments of their last changes."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.law("L6")
@pytest.mark.parametrize("name", ["stop_file", "sigterm", "deadline"])
def test_a_run_that_the_old_code_stopped_comes_to_what_the_old_code_would_have(
    before: Path, bitwise: bool, name: str
) -> None:
    run = Run(before / "runs" / name)
    step, old = run.saved_step(), lines(run.metrics)
    drawn = {file: file.read_bytes() for file in run.validation.glob("*.png")}
    assert drawn, "the old code drew the first epoch"
    assert 22 < step < 44, "in the middle of the second epoch, or the test says little"
    job = Job(before, load_config(before / "small.yaml", [f"name={name}"]), 1)
    assert job.wait() == [0], job.output()
    assert lines(run.metrics)[: len(old)] == old, "it went on; trained anew, it would have other times"
    assert all(file.read_bytes() == picture for file, picture in drawn.items())
    old_start, _ = run.starts()
    assert old_start.git_commit is not None
    assert old_start.git_commit.startswith("a2b621c")
    assert_alike(state_of(run.root), state_of(before / "runs" / "unbroken"), bitwise)


def test_a_run_that_the_old_code_finished_is_not_touched(before: Path) -> None:
    files = contents(before / "runs" / "unbroken")
    job = Job(before, load_config(before / "small.yaml", ["name=unbroken"]), 1)
    assert job.wait() == [0], job.output()
    assert "Best validation mean DSC: 0.079944" in job.output()
    assert contents(before / "runs" / "unbroken") == files


@pytest.mark.law("L10")
def test_an_old_run_is_evaluated(before: Path, bitwise: bool) -> None:
    assert evaluate.command(["runs/unbroken", "--out", "scores"]) == 0
    scores = {row["patient"]: float(row["dsc"]) for row in table(before / "scores" / "scores.csv")}
    run = Run(before / "runs" / "unbroken")
    expected = {row["patient"]: float(row["dsc"]) for row in run.scores(3)}
    assert scores == pytest.approx(expected, abs=1e-6 if bitwise else TOLERANCES["val_dsc"])


def test_an_old_checkpoint_s_weights_start_another_run(before: Path) -> None:
    weights = before / "runs" / "unbroken" / "checkpoints" / "step-00000066" / "model.safetensors"
    network = make_model(ModelConfig(features=4, depth=1, norm="group", weights=str(weights)), seed=9)
    old = load_file(weights)
    assert old.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, old[name]) for name, tensor in network.state_dict().items())
    cfg = load_config(before / "small.yaml", ["name=other", f"model.weights={weights}", "train.epochs=1"])
    job = Job(before, cfg, 1)
    assert job.wait() == [0], job.output()


@pytest.mark.parametrize("options", [["--no-atlas"], []])
def test_old_runs_and_an_old_ablation_are_reported(before: Path, options: Sequence[str]) -> None:
    runs = [f"runs/{name}" for name in ("unbroken", "stop_file", "sigterm", "deadline", "losses")]
    assert report.command([*runs, "--out", "report", *options]) == 0
    text = (before / "report" / "report.md").read_text()
    for words in (
        "| unbroken | unbroken |  | 42 | finished | 3 | 2 | 0.0799 ",
        "| plain-fold1-seed42 | plain | 1 | 42 | finished | 2 | 3 | 0.0748 ",
        "| uniform-fold1-seed42 | not begun |",
        "stopped by the STOP file at step 30",
        "stopped by SIGTERM at step 37",
        "stopped by the deadline at step 29",
    ):
        assert words in text
    variants = {row["variant"]: (row["n"], row["verdict"]) for row in table(before / "report" / "results.csv")}
    assert variants.keys() == {"unbroken", "plain", "uniform"}
    assert variants["unbroken"] == ("2", "baseline")
    assert ("PHANTOM_0004" in (before / "report" / "index.html").read_text()) or options


def test_an_old_ablation_goes_on_with_the_run_that_is_missing(before: Path, warm_runs: None) -> None:
    folder = before / "runs" / "losses"
    finished = ["plain-fold0-seed42", "uniform-fold0-seed42", "plain-fold1-seed42"]
    files, old = {name: contents(folder / name) for name in finished}, table(folder / "results.csv")
    assert [row["state"] for row in old] == ["finished", "finished", "finished", "none"]
    assert ablate.command(["spec.yaml"]) == 0
    assert {name: contents(folder / name) for name in finished} == files
    new = table(folder / "results.csv")
    assert new[:3] == old[:3]
    assert (new[3]["run"], new[3]["state"], new[3]["epochs"]) == ("uniform-fold1-seed42", "finished", "2")
    sides = [Run(folder / f"{variant}-fold1-seed42").split() for variant in ("plain", "uniform")]
    assert sides[0] == sides[1], "folds are dealt as they were when the ablation was begun"


def test_the_status_of_old_runs(before: Path) -> None:
    states = {
        "runs": {
            "unbroken": "finished", "stop_file": "stopped", "sigterm": "stopped", "deadline": "stopped",
            "losses/plain-fold0-seed42": "finished", "losses/uniform-fold0-seed42": "finished",
            "losses/plain-fold1-seed42": "finished",
        },
        "queue": {"night/whole": "finished", "night/killed": "broken off", "night/stopped": "stopped"},
        "jobs": {"job": "stopped"},
    }  # fmt: skip
    rows = {
        folder: {row["run"]: row for row in overview.rows(before / folder, WHEN_MADE_S + 3600)} for folder in states
    }
    assert {folder: {name: row["state"] for name, row in found.items()} for folder, found in rows.items()} == states
    reasons = {name: rows["runs"][name]["why"] for name in ("stop_file", "sigterm", "deadline", "unbroken")}
    for name, words in {"stop_file": "the STOP file", "sigterm": "SIGTERM", "deadline": "the deadline"}.items():
        assert f"stopped by {words} at step" in reasons[name]
    assert reasons["unbroken"] == ""
    assert rows["queue"]["night/killed"]["why"].startswith("failed: ")
    assert {row["job"] for row in rows["queue"].values()} == {"offline-1"}
    assert rows["jobs"]["job"]["job"].startswith("local-20261129-")
    submission = Submission(before / "jobs" / ".jobs" / "job" / "001")
    assert submission.resources.time == "1-00:00:00"
    assert submission.run("job").root == before / "jobs" / "job"


def test_what_the_runs_of_an_old_queue_stand_at(before: Path) -> None:
    files = contents(before / "queue")
    listed = python("jobs.offline", "queue.yaml", f"runs_dir={before / 'queue'}", "--dry-run")
    assert listed.returncode == 0, listed.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in listed.stdout.splitlines()]
    standings = {row[0]: (row[1], row[2], row[7]) for row in rows if row and row[0]}
    assert {name: standing[:2] for name, standing in standings.items()} == {
        "whole": ("finished", "2"), "killed": ("failed", "1"), "stopped": ("held", "1"),
    }  # fmt: skip
    assert standings["killed"][2].startswith("rank 0 was killed by SIGKILL")
    assert standings["stopped"][2].startswith("stopped by the STOP file at step 30")
    assert contents(before / "queue") == files
    first = lines(before / "queue" / "night" / "journal.jsonl")[0]
    began_s = Journal(before / "queue" / "night").began_s()
    assert began_s == datetime.fromisoformat(first["time"]).timestamp(), "SIGTERM does not renew the budget of time"


def test_an_old_queue_goes_on(before: Path, warm_runs: None) -> None:
    """A new command lets go what the STOP file held; what had failed is passed over until the queue is done."""
    night = before / "queue" / "night"
    files, old = contents(night / "whole"), lines(night / "journal.jsonl")
    assert offline.command(["queue.yaml", f"runs_dir={before / 'queue'}"]) == 1
    new = lines(night / "journal.jsonl")
    assert new[: len(old)] == old
    events = [(entry["event"], entry.get("run"), entry.get("step"), entry.get("how")) for entry in new[len(old) :]]
    assert events == [
        ("begin", None, None, None), ("start", "stopped", 30, None), ("end", "stopped", 66, "finished"),
        ("left", None, None, None),
    ]  # fmt: skip
    assert {entry["config"] for entry in new if entry.get("run") == "stopped"} == {old[-1]["config"]}
    assert contents(night / "whole") == files
    told = {row["run"]: row["state"] for row in table(night / "queue.csv")}
    assert told == {"whole": "finished", "killed": "failed", "stopped": "finished"}
    text = (night / "report" / "report.md").read_text()
    for words in ("| whole | whole |", "| stopped | stopped |", "rank 0 was killed by SIGKILL"):
        assert words in text
    assert (night / "results.zip").exists()
    assert (before / "queue" / ".jobs" / "night" / "003" / "code").is_dir()


@pytest.mark.law("L6")
def test_an_old_job_is_submitted_again_and_goes_on(before: Path, bitwise: bool) -> None:
    run = Run(before / "jobs" / "job")
    book = before / "jobs" / ".jobs" / "job" / "starts.jsonl"
    old = lines(book)
    arguments = ("--executor", "local", "--config", "small.yaml", "name=job", f"runs_dir={before / 'jobs'}")
    assert "Best validation mean DSC" in call(before, "submit", *arguments)
    assert [(e["event"], e.get("step"), e.get("how")) for e in lines(book)] == [
        ("start", 0, None), ("end", None, "stopped"), ("start", 29, None), ("end", None, "finished"),
    ]  # fmt: skip
    assert lines(book)[:2] == old
    assert_alike(state_of(run.root), state_of(before / "runs" / "unbroken"), bitwise)
    assert "is finished; nothing to submit" in call(before, "submit", *arguments)


def python(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the current code, in this process's working directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=200, env=environment,
        check=False,
    )  # fmt: skip


@pytest.mark.quick
def test_every_key_that_came_later_is_known_as_that() -> None:
    """Else the journals of old queues would count on other configs than they did."""
    old = yaml.safe_load(next(DATA.rglob("config.yaml")).read_text())
    keys = {key for key, _ in flatten(asdict(Config()))} - {key for key, _ in flatten(old)}
    assert {key for key in keys if key != "loss"} == NEWER_KEYS, "a new key goes into segtrain/config/comparison.py"
