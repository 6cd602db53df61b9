"""What a run uses and where it stands: measured, told, and found again when a rank hangs."""

import ctypes
import json
import mmap
import multiprocessing
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
from commands import events
from made_runs import train_event
from ranks import FORKSERVER, free_port
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs import overview, run_state, status
from segtrain.config import Config, WatchConfig, to_yaml
from segtrain.data.store import Store
from segtrain.run import Run
from segtrain.run.events import train_events
from segtrain.run.ranks import rank_reports
from segtrain.runtime.usage import Meter, gpu_reader
from segtrain.training.watch import Watch


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_meter_reads_the_work_of_the_process_and_of_its_children() -> None:
    meter = Meter()
    meter.read()
    before, started = os.times(), time.monotonic()
    burn(1.5)
    after, passed = os.times(), time.monotonic() - started
    used = (after.user + after.system - before.user - before.system) / passed * 100
    small = meter.read()
    assert small["cpu_percent"] == pytest.approx(used, rel=0.3)
    with mmap.mmap(-1, 200 << 20) as ballast:  # not of malloc's, which may have as much left from earlier tests
        for at in range(0, len(ballast), mmap.PAGESIZE):
            ballast[at] = 1
        assert meter.read()["rss_gib"] - small["rss_gib"] == pytest.approx(len(ballast) / 2**30, abs=0.02)
    child = multiprocessing.get_context("fork").Process(target=burn, args=(30.0,))
    child.start()
    try:
        used, end = 0.0, time.monotonic() + 20
        while used <= 5 and time.monotonic() < end:
            time.sleep(0.5)
            used = meter.read()["cpu_percent"]
        assert used > 5, "the child works, if only now and then; this process sleeps"
    finally:
        child.kill()
        child.join()


def test_a_machine_that_does_not_tell_of_children_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied: '/proc/1/stat'")

    monkeypatch.setattr(psutil.Process, "children", refuse)
    assert Meter().read()["rss_gib"] > 0


def test_a_gpu_is_read_through_nvml_and_what_it_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def power(handle: object) -> int:
        raise NVMLError("not supported")

    asked: list[bytes] = []
    nvml = ModuleType("pynvml")
    vars(nvml).update(
        NVMLError=NVMLError, nvmlInit=lambda: None, NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByUUID=asked.append,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=87),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=3 << 30),
        nvmlDeviceGetPowerUsage=power, nvmlDeviceGetTemperature=lambda handle, sensor: 61,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    read = gpu_reader("GPU-1234")
    assert read is not None
    assert read() == {"gpu_percent": 87.0, "gpu_memory_gib": 3.0, "gpu_celsius": 61.0}
    assert asked == [b"GPU-1234"]
    vars(nvml)["nvmlDeviceGetPowerUsage"] = lambda handle: 301_500
    assert Meter("GPU-1234").read()["gpu_watts"] == 301.5
    vars(nvml)["nvmlInit"] = lambda: power("no driver")
    assert gpu_reader("GPU-1234") is None


def test_what_was_used_stands_beside_each_loss_and_in_tensorboard(trained_run: Run) -> None:
    told = [event.resources for event in train_events(trained_run.events())]
    assert told == [event["resources"] for event in events(trained_run.root, "train")] != []
    for use in told:
        assert {"cpu_percent", "rss_gib", "machine_cpu_percent", "machine_memory_percent"} <= use.keys()
        assert 0.05 < use["rss_gib"] < 8
    board = EventAccumulator(str(trained_run.tensorboard))
    board.Reload()
    shown = [point.value for point in board.Scalars("resources/rss_gib")]
    assert shown == pytest.approx([use["rss_gib"] for use in told], rel=1e-5)
    [rank] = rank_reports(trained_run, 0.0)
    assert (rank["doing"], rank["step"]) == ("ended", trained_run.saved_step())


def hang_here() -> None:
    """Hold the interpreter's lock, so that no thread of Python's runs any more, in a call that no signal interrupts."""
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def train_and_hang(directory: str, rank: int, port: int) -> None:
    """A rank of two; the second hangs in the update of step 3."""
    os.chdir(directory)
    with Path(f"rank-{rank}.log").open("a") as log:
        os.dup2(log.fileno(), 2)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )  # fmt: skip
    from segtrain.engines.ddp import DdpEngine
    from segtrain.runtime import stacks
    from segtrain.train import main

    stacks.LEAST_S = 2.0
    update, updates = DdpEngine._update, list[float]()

    def update_or_hang(engine: DdpEngine, lr: float) -> None:
        updates.append(lr)
        if rank == 1 and len(updates) == 3:
            hang_here()
        update(engine, lr)

    setattr(DdpEngine, "_update", update_or_hang)  # noqa: B010
    main(["--config", "given.yaml"])


def row_of(runs_dir: Path, now_s: float) -> dict[str, Any]:
    [row] = list(overview.rows(runs_dir, now_s))
    return row


def both_stand(row: dict[str, Any]) -> bool:
    """Whether a row is stalled, and both ranks have written down where they hang, or wait for the one that does."""
    if row.get("state") != "stalled" or len(row["stalled"]["ranks"]) < 2:
        return False
    waiting, hanging = (rank["stack"] for rank in row["stalled"]["ranks"])
    waits = any(frame.startswith("run (segtrain/training/loop.py:") for frame in waiting)
    return waits and bool(hanging) and hanging[0].startswith("hang_here (tests/test_watch.py:")


def test_a_run_with_a_rank_that_hangs_is_stalled_and_says_where_each_rank_stands(
    tiny: Config, tiny_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = replace(tiny, watch=WatchConfig(every_s=0.3, stall_s=5.0))
    (tmp_path / "given.yaml").write_text(to_yaml(cfg))
    port = free_port()
    processes = [FORKSERVER.Process(target=train_and_hang, args=(str(tmp_path), rank, port)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        runs_dir, end = tmp_path / "runs", time.monotonic() + 90
        states: set[str] = set()
        row: dict[str, Any] = {}
        while not both_stand(row) and time.monotonic() < end:
            time.sleep(0.2)
            for row in overview.rows(runs_dir, time.time()) if runs_dir.exists() else ():
                states.add(row["state"])
        assert both_stand(row), (row, (tmp_path / "rank-0.log").read_text())
        assert "running" in states
        waiting, hanging = row["stalled"]["ranks"]
        assert any(frame.startswith("run (segtrain/training/loop.py:") for frame in hanging["stack"])
        assert any(frame.startswith("run (segtrain/training/loop.py:") for frame in waiting["stack"])
        assert re.search(r"rank 1 last heard of at step \d, \w+: hang_here \(tests/test_watch.py:", row["why"])
        assert row["eta_s"] is None
        later = time.time() + 300  # rank 1 says nothing any more; its process is there
        assert row_of(runs_dir, later)["state"] == "stalled"
        assert status.command([str(runs_dir)]) == 0
        assert "stalled" in capsys.readouterr().out
    finally:
        for process in processes:
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()
    assert row_of(runs_dir, later)["state"] == "broken off"


def test_a_run_that_makes_progress_is_never_stalled_and_its_resources_are_shown(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / "config.yaml").write_text("train: {epochs: 10}\n")
    run.record(train_event(1))
    with Watch(run, WatchConfig(every_s=0.1, stall_s=4.0)) as watch:
        for step in range(2, 12):
            time.sleep(0.5)
            watch.progress(step, "training")
        assert run.rank_stacks(0).read_text() == ""
        end = time.monotonic() + 3
        while (row := row_of(run.root.parent, time.time()))["step"] != 11 and time.monotonic() < end:
            time.sleep(0.05)
        assert (row["state"], row["stalled"], row["step"]) == ("running", None, 11)
        assert row["rss_gib"] > 0.9 * psutil.Process().memory_info().rss / 2**30
        assert status.command([str(run.root.parent)]) == 0
        assert "RSS" in capsys.readouterr().out
        assert status.command(["--json", str(run.root.parent)]) == 0
        assert json.loads(capsys.readouterr().out)[0]["cpu_percent"] is not None
    assert not list((run.root / "ranks").glob("*.tmp"))


def test_a_run_whose_directory_is_just_being_made_is_running(run: Run) -> None:
    config = run.root / "config.yaml"
    config.write_text("train: {epochs: 10}\n")
    assert row_of(run.root.parent, time.time())["state"] == "running"
    assert row_of(run.root.parent, time.time() + run_state.QUIET_S + 1)["state"] == "broken off"
    (run.root / "environment.json").write_text(json.dumps([{"time": "2020-11-02T10:00:00+0000"}]))
    assert row_of(run.root.parent, time.time())["state"] == "broken off", "what it says itself comes first"


def test_the_last_trouble_of_this_start_is_shown_not_that_of_an_earlier_one(run: Run) -> None:
    (run.root / "config.yaml").write_text("train: {epochs: 10}\n")
    lines = [
        "2026-11-01 10:00:00 warning: of old",
        "2026-11-02 10:00:05 [rank 1] warning: no room",
        "2026-11-02 10:01 on",
    ]
    run.log_file.write_text("\n".join(lines))
    for began, trouble in (("2026-11-02T10:00:00+0000", lines[1]), ("2026-11-03T10:00:00+0000", None)):
        (run.root / "environment.json").write_text(json.dumps([{"time": began}]))
        assert row_of(run.root.parent, time.time())["trouble"] == trouble


def test_status_watches_until_it_is_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.root / "config.yaml").write_text("train: {epochs: 10}\n")
    looked = []

    def sleep(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert status.command([str(run.root.parent), "--watch", "0.5"]) == 0
    assert looked == [0.5] * 3
