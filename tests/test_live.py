"""A run that trains elsewhere, seen from its files: `segtrain watch`, and the same facts on the training's own line."""

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import ROOT, blocks
from made_runs import evaluation_event, train_event

from segtrain.commands import watch as command
from segtrain.errors import ConfigError, RunError, StopReason
from segtrain.report.snapshot import Watcher, spark, watch
from segtrain.run import Outcome, Run
from segtrain.run import live as following
from segtrain.run.events import Event, to_line
from segtrain.run.live import EventTail, facts_of
from segtrain.run.milestones import milestones_in, milestones_of
from segtrain.runtime import files


@pytest.fixture(autouse=True)
def without_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def begun(root: Path) -> Run:
    """A run of three epochs that is in its second."""
    run = Run(root)
    run.validation.mkdir(parents=True)
    run.config_file.write_text("train:\n  epochs: 3\n")
    run.log_file.touch()
    for step in (5, 10, 15):
        run.record(train_event(step, loss=1 / step, images_per_s=43.0))
        if step % 10 == 0:
            run.record(evaluation_event(step, step // 10, 0.8, n=6))
    run.write_picture(1, np.zeros((64, 96, 3), np.uint8))
    return run


@pytest.fixture
def live(tmp_path: Path) -> Run:
    return begun(tmp_path / "runs" / "live")


def report(run: Run, **changes: Any) -> None:
    """What a rank writes while it trains."""
    now_s = time.time()
    state = {
        "rank": 0, "host": "elsewhere", "pid": 1, "process_started": now_s, "thread": "0x1", "every_s": 10.0,
        "stall_s": 600.0, "step": 17, "doing": "training", "progressed": now_s, "time": now_s, "began": now_s + 1,
    }  # fmt: skip
    run.ranks.mkdir(exist_ok=True)
    files.write_json(run.rank_state(0), state | changes)


def age(run: Run, seconds: float) -> None:
    """All that the run wrote becomes so much older, by the file system's clock."""
    for file in (run.config_file, run.log_file, run.metrics, *run.ranks.glob("*")):
        os.utime(file, (time.time() - seconds,) * 2)


def test_a_block_has_the_facts_of_a_run_that_trains(live: Run, capsys: pytest.CaptureFixture[str]) -> None:
    live.log_file.write_text("2999-01-01 00:00:00 warning: the disk is nearly full\x1b[2J\n")
    report(live)
    assert command.command([str(live.root)]) == 0, "no terminal: it prints once"
    out = capsys.readouterr().out
    assert out.startswith("live: running (training)  epoch 1/3  step 15  DSC 0.8000 (n 6)  best 0.8000 (epoch 1)  43.0")
    assert re.search(r"  last event 0:0\d ago\n  loss █▃▁  0.2000 -> 0.0667\n  DSC  ▁  0.8000 -> 0.8000\n", out)
    assert "nearly full\\x1b[2J" in out


def test_the_time_left_is_that_of_the_whole_run() -> None:
    events: list[Event] = [train_event(10), evaluation_event(20, 1, 0.5), train_event(30)]
    timed = [replace(event, time=1000.0 + 10 * place) for place, event in enumerate(events)]
    assert facts_of(milestones_of(timed[:1]), 5).left_s is None
    one = facts_of(milestones_of(timed), 5)
    assert one.left_s == 4 * 20 - 10, "10 steps in 10 s, 20 steps an epoch, 10 s ago"
    later = replace(evaluation_event(40, 2, 0.5), time=1110.0)
    assert facts_of(milestones_of([*timed, later]), 5).left_s == 3 * 100


def test_the_end_of_a_file_is_read_and_then_what_is_new(live: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(100, 1100, 100):
        live.record(train_event(step))
    monkeypatch.setattr(following, "EVENTS_BYTES", 600)
    tail = EventTail(live.metrics)
    tail.look()
    assert tail.reached == milestones_in(live.metrics)
    assert 1 < len(tail.training) < 6
    half = to_line(evaluation_event(1200, 2, 0.7)).encode()
    with live.metrics.open("ab") as file:
        file.write(half[:50])
        file.flush()
        tail.look()
        assert not tail.evaluations
        file.write(half[50:])
        file.flush()
        tail.look()
    assert [event.epoch for event in tail.evaluations] == [2]
    assert tail.reached == milestones_in(live.metrics)


def test_a_run_that_was_rewound_is_read_anew(live: Run) -> None:
    tail = EventTail(live.metrics)
    tail.look()
    live.rewind(10, 0)
    tail.look()
    assert [event.step for event in tail.training] == [5, 10]
    text = live.metrics.read_text().replace('"loss": 0.2', '"loss": 0.3') + to_line(train_event(99))
    live.metrics.write_text(text)
    tail.look()
    assert [event.loss for event in tail.training] == [0.3, 0.1, 1.0], "in place, and longer than before"


@pytest.mark.parametrize(
    ("seconds", "changes", "state"),
    [
        (0, {}, "running"),
        (50, {}, "running"),
        (70, {}, "broken off"),
        (0, {"progressed": time.time() - 700}, "stalled"),
        (0, {"progressed": time.time() + 7e6, "time": time.time() + 7e6}, "running"),
    ],
)
def test_whether_a_run_makes_progress_is_told_by_the_file_systems_clock(
    live: Run, monkeypatch: pytest.MonkeyPatch, seconds: float, changes: dict[str, float], state: str
) -> None:
    report(live, **changes)
    age(live, seconds)
    monkeypatch.setattr(time, "time", lambda: 5.0)  # the clock of this machine says nothing
    snapshot = Watcher(live.root).look()
    assert snapshot.state == state
    assert snapshot.age_s == pytest.approx(seconds, abs=5)


def test_watching_ends_with_the_run_and_says_why(live: Run) -> None:
    states = []
    for snapshot in watch(live.root, 0.01):
        states.append(snapshot.state)
        if len(states) == 2:
            live.end(Outcome("stopped", 15, 1, 0.8, StopReason.STOP_FILE, "Stopped: stopped by the STOP file"))
    assert states == ["running", "running", "stopped"]
    assert snapshot.message == "Stopped: stopped by the STOP file"
    assert "left" not in snapshot.text


def test_a_notebook_shows_facts_curves_and_the_newest_picture(live: Run) -> None:
    page = Watcher(live.root).look()._repr_html_()
    assert "DSC 0.8000 (n 6)" in page
    assert page.count("<svg") == 2
    assert "data:image/webp;base64," in page
    assert Watcher(live.root).look().picture == live.validation_picture(1)
    live.validation_picture(1).write_bytes(b"half")
    assert "<img" not in Watcher(live.root).look()._repr_html_()


def test_a_folder_shows_what_trains_in_it(live: Run, capsys: pytest.CaptureFixture[str]) -> None:
    begun(live.root.with_name("done")).end(Outcome("finished", 30, 3, 0.8))
    age(begun(live.root.with_name("old")), 5000)
    folder = str(live.root.parent)
    assert command.command([folder]) == 0
    assert re.findall(r"^\w+", capsys.readouterr().out, re.MULTILINE) == ["live"]
    live.end(Outcome("finished", 30, 3, 0.8))
    assert command.command([folder, "--once"]) == 0
    assert capsys.readouterr().out == f"{folder}: no run trains here now\n"


def test_the_lines_of_python_in_watch_md_follow_a_run_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "runs" / "lgg").end(Outcome("finished", 15, 3, 0.8))
    (block,) = [block for block in blocks(ROOT / "docs" / "watch.md") if block.language == "python"]
    exec(block.text, {})
    assert re.fullmatch(r"1 0\.8 6 [\d.]+\n", capsys.readouterr().out)


def test_a_terminal_is_refreshed_until_the_run_ends(
    live: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        live.end(Outcome("finished", 30, 3, 0.8))

    monkeypatch.setattr(time, "sleep", sleep)
    assert command.command([str(live.root), "--every", "3"]) == 0
    assert waits == [3.0]
    assert "finished" in capsys.readouterr().out

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    live.outcome_file.unlink()
    assert command.command([str(live.root)]) == 0


def test_what_cannot_be_watched_is_named(live: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(live.root.parent.parent)
    with pytest.raises(RunError, match=r"live: no such folder; did you mean runs/live\?"):
        command.command(["live"])
    with pytest.raises(ConfigError, match="--every -1: give seconds"):
        command.command([str(live.root), "--every", "-1"])
    live.metrics.write_text(json.dumps({"event": "train", "step": -1}) + "\n")
    assert Watcher(live.root).look().state == "unreadable"


def test_a_spark_has_the_shape_of_the_curve() -> None:
    assert spark([1.0, 1.0]) == "▁▁"
    assert spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert len(spark([float(value) for value in range(1000)])) == 40
