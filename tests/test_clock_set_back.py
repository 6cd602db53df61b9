"""A clock that is set back in the middle: STOP files are heard, waits end, and hours are right."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import train_event

from jobs import progress
from jobs.history import History
from segtrain.config import Config, TrainConfig, WatchConfig
from segtrain.data.store import Store
from segtrain.errors import Stopped, StopReason
from segtrain.report.cost import cost
from segtrain.run import Environment, Run
from segtrain.run.ranks import rank_reports
from segtrain.runtime import lock_file, stop
from segtrain.runtime.stop import Deadline, Stop
from segtrain.runtime.world import World
from segtrain.training import session
from segtrain.training.clock import EventClock
from segtrain.training.loop import Loop
from segtrain.training.watch import Watch

HOUR_S = 3600.0
REALLY = time.time


class Set:
    """The clock, ahead or behind by so many seconds."""

    by_s = 0.0

    def __call__(self) -> float:
        return REALLY() + self.by_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Set:
    clock = Set()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(stop, "LOOK_EVERY_S", 0.05)
    return clock


def reason_within(stopping: Stop, limit_s: float) -> StopReason | None:
    end = time.monotonic() + limit_s
    while not (reason := stopping.reason()) and time.monotonic() < end:
        time.sleep(0.02)
    return reason


@pytest.mark.law("L8")
@pytest.mark.parametrize("first", ["the file", "the clock"])
def test_a_stop_file_is_heard_whether_it_is_there_before_or_after(clock: Set, tmp_path: Path, first: str) -> None:
    stopping = Stop()
    stopping.watch(tmp_path / "STOP", None)
    assert stopping.reason() is None, "this was a look"
    if first == "the file":
        (tmp_path / "STOP").touch()
    clock.by_s = -HOUR_S
    (tmp_path / "STOP").touch()
    assert reason_within(stopping, 5) is StopReason.STOP_FILE


def test_a_deadline_comes_in_time_where_the_clock_is_set_back_or_the_machine_slept(clock: Set) -> None:
    deadline = Deadline(time.time() + HOUR_S)
    clock.by_s = -HOUR_S
    assert deadline.left_s() == pytest.approx(HOUR_S, abs=5), "the time that has passed counts"
    assert deadline.at_s() == pytest.approx(time.time() + HOUR_S, abs=5)
    clock.by_s = HOUR_S / 2
    assert deadline.left_s() == pytest.approx(HOUR_S / 2, abs=5), "the clock counts, as after a sleep"
    clock.by_s = 0.0
    stopping = Stop()
    stopping.watch(Path("none"), time.time() + stop.SAFETY_S + 0.2)
    clock.by_s = -HOUR_S
    assert reason_within(stopping, 5) is StopReason.DEADLINE


def test_a_training_hears_its_stop_file_and_reports_its_hours(
    tiny: Config, tiny_store: Store, tmp_path: Path, clock: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(tiny, runs_dir=str(tmp_path), train=TrainConfig(epochs=9, global_batch=8), log_every_steps=2)
    run, save = Run.of(cfg), Loop._save

    def save_and_interfere(loop: Loop) -> None:
        save(loop)
        if clock.by_s:
            run.stop_file.touch()
        clock.by_s = -HOUR_S

    monkeypatch.setattr(Loop, "_save", save_and_interfere)
    stopping = Stop()
    stopping.watch(run.stop_file, None)
    began_s = time.monotonic()
    with pytest.raises(Stopped):
        session.train(cfg, run, [], False, stopping, World())
    took_s = time.monotonic() - began_s
    assert stopping.reason() is StopReason.STOP_FILE
    times = [event.time for event in run.events()]
    assert times == sorted(times)
    first, last = cost(run.starts(), run.events()[:1]), cost(run.starts(), run.events())
    assert 0 <= first.hours <= last.hours
    assert last.hours * 3600 == pytest.approx(times[-1] - run.starts()[0].began_s)
    assert last.hours * 3600 < took_s + 1, "an entry's time is that of its second"


def test_hours_of_a_run_whose_clock_was_set_back_between_its_starts(clock: Set) -> None:
    begins = ["2026-11-02T10:00:00+00:00", "2026-11-02T09:30:00+00:00"]
    starts = [Environment(time=begin, device="cpu", world_size=1) for begin in begins]
    began_s = starts[0].began_s
    first = [replace(train_event(step), time=began_s + 600 * step) for step in range(1, 7)]
    clock.by_s = starts[1].began_s - REALLY()
    resumed = EventClock(first[-1].time)
    assert resumed.now_s() == pytest.approx(began_s + HOUR_S, abs=1)
    second = [replace(train_event(7), time=resumed.now_s() + 1800)]
    assert cost(starts, [*first, *second]).hours == pytest.approx(1.5, abs=0.01)


def test_stalls_and_ends_of_ranks_are_seen(clock: Set, tmp_path: Path) -> None:
    run, since_s = Run(tmp_path / "run"), time.time() - 1
    with Watch(run, WatchConfig(every_s=0.05, stall_s=0.2)):
        clock.by_s = -HOUR_S
        end = time.monotonic() + 10
        while "Timeout" not in run.rank_stacks(0).read_text() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)
        ranks = rank_reports(run, since_s)
        stall = progress.stalled(run, ranks, time.time())
        assert stall
        assert 0 < stall["since_s"] < 20
        assert not progress.silent(ranks, time.time()), "its process is there"
        ended = [{**ranks[0], "pid": 2**22 + 1, "time": time.time() + HOUR_S}]
        assert progress.silent(ended, time.time())


def test_the_lock_of_a_holder_that_is_gone_is_taken(
    clock: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_file, "WATCH_S", 0.3)
    holder = tmp_path / ".lock.1"
    holder.write_text(json.dumps({"host": "elsewhere", "machine": "elsewhere", "pid": 1, "started": 1}))
    clock.by_s = -HOUR_S
    assert lock_file.is_taken(tmp_path / ".lock"), "as far as can be said at once"
    beating, over = threading.Event(), threading.Event()

    def beat() -> None:
        while not over.wait(0.02):
            os.utime(holder)
            beating.set()

    thread = threading.Thread(target=beat)
    thread.start()
    beating.wait()
    with monkeypatch.context() as patient:
        patient.setattr(lock_file, "WATCH_S", 60.0)
        assert lock_file.take(tmp_path / ".lock") is None, "its holder is there"
    over.set()
    thread.join()
    lock = lock_file.take(tmp_path / ".lock")
    assert lock
    lock.release()


def test_a_start_that_seems_to_begin_later_than_it_ended_had_time_to_work(clock: Set, tmp_path: Path) -> None:
    history = History(Run(tmp_path / "runs/run"))
    history.begin("1")
    clock.by_s = -HOUR_S
    assert history.lasted_s("1") > HOUR_S
