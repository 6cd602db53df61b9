"""The queue's budgets of time and space, and what they leave for report and archive. With stand-ins for trainings."""

import json
import os
import re
import shutil
import time
from collections import namedtuple
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_runs import train
from queues import StandIns, command, ends, entries, write

from jobs.offline import queue_file, wrap_up
from jobs.queue import machine
from jobs.queue.journal import Journal, QueueEnd
from segtrain.config import to_yaml
from segtrain.doctor import disk
from segtrain.runtime import stop

REPORT = wrap_up.report


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("budget", ["max-hours", "stop-at"])
def test_the_time_budget_ends_the_queue_in_time_with_all_saved(
    tmp_path: Path, stand_ins: StandIns, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an hour five minutes are kept; once the run is at work the clock shows a time before those, then one after."""
    ready = tmp_path / "runs" / ".jobs" / "night" / "stand-ins" / "a" / "ready"
    given: list[float] = []
    shown: list[float] = []

    def clock() -> float:
        if ready.exists():
            shown.append(began + (3290 if len(shown) < 20 else 3420))
        return shown[-1] if shown else began

    monkeypatch.setattr(wrap_up, "report", lambda *_, deadline_s: given.append(deadline_s))
    queue, began = write(tmp_path), time.time()
    fake = SimpleNamespace(time=clock, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(stop, "time", fake)
    stand_ins.words["a"] = ["gain", "finish"]
    until = {"max-hours": "1", "stop-at": datetime.fromtimestamp(began + 3600).isoformat()}
    assert command(queue, f"--{budget}", until[budget], "--when-done", f"touch {tmp_path}/hook") == 75
    assert set(shown) == {began + 3290, began + 3420}
    assert began + 3599 < given[0] < began + 3700, "the report is told when all has to have ended"
    assert ends(tmp_path) == [("a", "stopped")]
    assert entries(tmp_path, "end")[0]["step"] == 1
    assert entries(tmp_path, "left")[0]["why"] == "the deadline"
    assert (tmp_path / "hook").exists()
    assert (tmp_path / "runs" / "night" / "results.zip").exists(), "what there is comes home"
    assert command(queue) == 0, "the same command goes on"


def test_the_runs_are_told_when_the_queue_ends(tmp_path: Path, stand_ins: StandIns) -> None:
    """So that each stops by what its own steps and saves take."""
    end = datetime.now().astimezone() + timedelta(hours=10)
    runs = [
        {"config": "base.yaml", "name": "own", "overrides": {"stop.deadline": "1h"}},
        {"config": "base.yaml", "name": "later", "overrides": {"stop.deadline": "11h"}},
    ]
    command(write(tmp_path, runs=runs), "--stop-at", end.isoformat())
    given = {name: json.dumps(_config(tmp_path, name)["stop"]["deadline"]) for name in ("own", "later")}
    assert given["own"] == '"1h"'
    told = datetime.fromisoformat(json.loads(given["later"]))
    assert 299 < (end - told).total_seconds() < 302, "kept for report, archive and sync"


def _config(folder: Path, name: str) -> dict[str, dict[str, str]]:
    import yaml

    found: dict[str, dict[str, str]] = yaml.safe_load((folder / "runs" / "night" / name / "config.yaml").read_text())
    return found


def test_a_kill_does_not_renew_the_hours(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    times = iter(["2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00", "2026-01-01T02:00:00+00:00"])
    for event, values in [("begin", {}), ("left", {"why": "SIGTERM"}), ("begin", {})]:
        journal.write(event, **values)
        journal.entries[-1]["time"] = next(times)
    first = datetime.fromisoformat("2026-01-01T00:00:00+00:00").timestamp()
    assert journal.began_s() == first
    journal.write("left", why="the deadline")
    journal.write("begin")
    assert journal.began_s() > first
    assert machine.deadline(first, 2, None) == first + 7200
    assert machine.deadline(first, 2, "2026-01-01T01:00:00+00:00") == first + 3600


def test_too_little_space_stops_the_queue_with_all_saved(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, gib = write(tmp_path, min_free_gib=3), 2**30
    ready = tmp_path / "runs" / ".jobs" / "night" / "stand-ins" / "a" / "ready"
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(real.total, 0, 2 * gib if ready.exists() else 4 * gib))
    monkeypatch.setattr("jobs.queue.runner.DISK_EVERY_S", 0.1)
    stand_ins.words["a"] = ["gain", "finish"]
    assert command(queue, "--when-done", f"touch {tmp_path}/hook") == 75
    assert ends(tmp_path) == [("a", "stopped")]
    assert "2.0 GiB free" in entries(tmp_path, "left")[0]["why"]
    assert (tmp_path / "hook").exists()
    ready.unlink()
    assert command(queue) == 0


def test_the_space_that_counts_is_where_the_store_is_on_this_machine(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, gib = tmp_path / "scratch", 2**30
    scratch.mkdir()
    real = shutil.disk_usage(tmp_path)
    free = {scratch: 1 * gib}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(real.total, 0, free.get(Path(path), 9 * gib)))
    monkeypatch.setenv("SCRATCH", str(scratch))
    assert command(write(tmp_path, min_free_gib=3), "data.store=$SCRATCH/prepared") == 75
    assert f"1.0 GiB free in {scratch}, min_free_gib" in entries(tmp_path, "left")[0]["why"]
    assert stand_ins.names == []


def test_space_under_a_folder_that_may_not_be_looked_at_is_that_of_the_one_above(
    tmp_path: Path, as_nobody: None
) -> None:
    closed = tmp_path / "closed"
    os.seteuid(0) if os.getuid() == 0 else None
    closed.mkdir()
    closed.chmod(0)
    os.seteuid(65534) if os.getuid() == 0 else None  # root may look anywhere
    try:
        assert machine.scarce([closed / "of" / "another"], 0.0) is None
        assert f"free in {closed}," in str(machine.scarce([closed / "of" / "another"], 1e9))
        found = {finding.check: finding.state for finding in disk.check("data.store", closed / "of" / "another", 1)}
        assert found == {"data.store: space": "ok", "data.store: write": "failure"}
    finally:
        os.seteuid(0) if os.getuid() == 0 else None
        closed.chmod(0o755)


def test_an_archive_that_finds_no_room_is_said_and_counts(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 100))
    assert command(write(tmp_path)) == 1
    [left] = entries(tmp_path, "left")
    assert "the archive: needs" in left["trouble"][0]
    assert not list((tmp_path / "runs" / "night").glob("*results.zip*"))


def test_a_report_that_fails_is_said_and_counts(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-ins' directories hold no scores; the archive is packed all the same."""
    monkeypatch.undo()
    StandIns(monkeypatch)
    monkeypatch.setattr(wrap_up, "report", REPORT)
    (tmp_path / "runs" / "night").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "report").write_text("in the way")
    assert command(write(tmp_path, ["a"])) == 1
    [left] = entries(tmp_path, "left")
    assert "the report: segtrain: error:" in left["trouble"][0]
    assert "is a file; name a folder" in left["trouble"][0]
    assert (tmp_path / "runs" / "night" / "results.zip").exists()


@pytest.mark.law("L12")
def test_the_report_says_why_runs_of_the_queue_failed_or_never_began(tmp_path: Path, stand_ins: StandIns) -> None:
    """With runs that were trained before, one to its end; a stand-in gets them killed, refuses, and stops the queue."""
    runs: list[dict[str, Any]] = [{"config": "base.yaml", "name": name} for name in ("done", "killed", "b", "c", "d")]
    runs.append({"config": "base.yaml", "name": "typo", "overrides": {"optim.lrr": 1}})
    queue = write(tmp_path, runs=runs, retries=0)
    asked = queue_file.load(queue, [])
    for item in asked.items[:2]:
        assert item.cfg is not None
        of_run = train(item.run.root, state="finished" if item.name == "done" else "running")
        (of_run.root / "config.yaml").write_text(to_yaml(item.cfg))
        of_run.metrics.write_text(of_run.metrics.read_text().replace('"n": 6', '"n": 6, "ci_low": 0.1, "ci_high": 0.9'))
    stand_ins.words |= {"killed": ["kill"], "b": ["2"], "c": ["parent"]}
    assert command(queue) == 75
    assert stand_ins.names == ["killed", "b", "c"]
    assert wrap_up.write_standings(asked, lambda: True, Journal(asked.folder), QueueEnd("SIGTERM", "SIGTERM")) is None
    assert REPORT(asked, lambda: True) is None
    said = (asked.folder / "report" / "report.md").read_text()
    for line in (
        "| killed | failed | its launcher was killed by signal 9 |",
        "| b | not begun | ValueError: it broke |",
        "| d | not begun | the queue stopped before it: SIGTERM |",
        "| typo | not begun | ",
        "queue.yaml, runs.5: unknown key optim.lrr",
    ):
        assert line in said, said
    assert "Runs: 6 (finished: 1, not begun: 4)" in said
    Journal(asked.folder).write("left", why="done", code=1)  # from here on all counts anew
    assert (
        wrap_up.write_standings(asked, lambda: True, Journal(asked.folder), QueueEnd("DEADLINE", "the deadline"))
        is None
    )
    told = (asked.folder / "queue.csv").read_text()
    assert re.search(r"^b,due,.*,ValueError: it broke$", told, re.MULTILINE), "it has not been tried again"


@pytest.mark.parametrize(
    ("left_s", "tries"),
    [(None, ["atlas"]), (3600, ["atlas"]), (400, ["atlas", "none"]), (100, ["none"]), (-9, ["none"])],
)
def test_a_report_leaves_its_atlas_out_rather_than_miss_the_deadline(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, left_s: int | None, tries: list[str]
) -> None:
    """A stand-in: where the atlas does not fit, it is not ready when half of the time that is left has passed."""
    command(queue := write(tmp_path, ["a"]))
    script, said = tmp_path / "report.sh", tmp_path / "said"
    hangs = "exec sleep 600" if len(tries) > 1 else ":"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *--no-atlas) echo none >>{said};; *) echo atlas >>{said}; {hangs};; esac\n'
    )
    script.chmod(0o755)

    def clock() -> float:
        return time.monotonic() + (250 if hangs != ":" and said.exists() and said.read_text() else 0)

    monkeypatch.setattr(wrap_up, "time", SimpleNamespace(time=time.time, monotonic=clock, sleep=time.sleep))
    monkeypatch.setattr(wrap_up, "sys", SimpleNamespace(executable=str(script)))
    assert REPORT(queue_file.load(queue, []), lambda: True, left_s and time.time() + left_s) is None
    assert said.read_text().split() == tries
