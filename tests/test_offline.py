"""The queue: order, retries, budgets of time and space, stops, the command when done. With stand-ins for trainings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from queues import StandIns, command, ends, entries, write

from jobs.offline import finish, machine, plan, runner, words
from jobs.offline.journal import Journal
from segtrain.doctor import disk
from segtrain.errors import LaunchError, RunError

REPORT = finish.report
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIns]:
    handlers = {number: signal.getsignal(number) for number in (1, 2, 10, 12, 15)}
    monkeypatch.setattr(machine, "gpus", list)
    yield StandIns(monkeypatch)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_all_runs_finish_in_order_and_the_same_command_has_nothing_to_do(tmp_path: Path, stand_ins: StandIns) -> None:
    queue = write(tmp_path, ["b", "a", "c"])
    assert command(queue) == 0
    assert command(queue) == 0
    assert stand_ins.names == ["b", "a", "c"]
    assert [entry["why"] for entry in entries(tmp_path, "left")] == ["done", "done"]


@pytest.mark.law("L10")
def test_a_score_of_one_patient_is_told_without_an_interval(
    tmp_path: Path, stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.words["a"] = ["single"]
    assert command(write(tmp_path)) == 0
    assert stand_ins.names == ["a", "b"]
    assert "a: finished at step 1, best DSC 0.5000 (n = 1, no CI)" in capsys.readouterr().err
    assert words.score({}) == ""
    many = {"n": 6, "best_dsc": 0.86864, "ci_low": 0.8321, "ci_high": 0.9049}
    assert words.score(many) == "0.8686 (n = 6, 95% CI 0.832 to 0.905)"


@pytest.mark.parametrize(
    ("told", "retries", "starts", "code"),
    [
        (["1", "finish"], 1, 2, 0),
        (["1", "kill", "finish"], 2, 3, 0),
        (["1"], 2, 3, 1),
        (["1", "finish"], 0, 1, 1),
        (["2", "finish"], 5, 1, 1),  # a mistake of the user's is none that goes away
        (["3", "finish"], 5, 1, 1),  # the same numbers would diverge again
        (["75", "75", "finish"], 0, 3, 0),  # stopped by its own deadline: not a failure
    ],
)
def test_what_failed_is_tried_again_as_told_then_passed_over(
    tmp_path: Path, stand_ins: StandIns, told: list[str], retries: int, starts: int, code: int
) -> None:
    queue = write(tmp_path, retries=retries)
    stand_ins.words["a"] = told
    assert command(queue) == code
    assert stand_ins.names == ["a"] * starts + ["b"]
    assert ends(tmp_path)[-1] == ("b", "finished")
    passed = [(entry["run"], entry["why"]) for entry in entries(tmp_path, "pass")]
    assert passed == ([] if code == 0 else [("a", "ValueError: it broke")])


def test_a_queue_that_was_cut_off_does_not_begin_to_count_anew(tmp_path: Path, stand_ins: StandIns) -> None:
    """What was passed over stays so until the queue is done; then the same command tries it again."""
    queue = write(tmp_path, ["a", "b", "c"], retries=1)
    stand_ins.words |= {"a": ["1", "1", "finish"], "b": ["parent", "finish"]}
    assert command(queue) == 75
    assert stand_ins.names == ["a", "a", "b"]
    assert [entry["run"] for entry in entries(tmp_path, "pass")] == ["a"]
    stand_ins.began.clear()
    assert command(queue) == 1
    assert stand_ins.names == ["b", "c"]
    assert [entry["run"] for entry in entries(tmp_path, "pass")] == ["a"], "said once in the journal"
    stand_ins.began.clear()
    assert command(queue) == 0
    assert stand_ins.names == ["a"]


def test_another_config_is_tried_anew(tmp_path: Path, stand_ins: StandIns) -> None:
    stand_ins.words |= {"a": ["2", "finish"], "b": ["parent"]}
    assert command(write(tmp_path)) == 75
    assert command(write(tmp_path, overrides={"runs_dir": str(tmp_path / "runs"), "data.store": "/elsewhere"})) == 75
    assert stand_ins.names == ["a", "b", "a", "b"]


def test_a_bad_config_is_passed_over_with_its_reason(tmp_path: Path, stand_ins: StandIns) -> None:
    runs = [{"config": "base.yaml", "name": "a", "overrides": {"optim.lrr": 1}}, {"config": "base.yaml", "name": "b"}]
    assert command(write(tmp_path, runs=runs)) == 1
    assert stand_ins.names == ["b"]
    [bad] = [entry for entry in entries(tmp_path, "end") if entry["run"] == "a"]
    assert (bad["how"], bad["code"]) == ("refused", 2)
    assert "unknown key optim.lrr; did you mean optim.lr?" in bad["why"]


@pytest.mark.law("L8")
def test_a_signal_has_the_runs_save_and_leave(tmp_path: Path, stand_ins: StandIns) -> None:
    queue = write(tmp_path)
    stand_ins.words["a"] = ["parent", "finish"]
    assert command(queue, "--when-done", f"touch {tmp_path}/hook") == 75
    [end] = entries(tmp_path, "end")
    assert (end["run"], end["how"], end["step"]) == ("a", "stopped", 1)
    assert entries(tmp_path, "left")[0]["why"] == "SIGTERM"
    assert not (tmp_path / "hook").exists(), "told to stop: the machine is somebody's"
    assert not (tmp_path / "runs" / "night" / "results.zip").exists()
    assert command(queue) == 0
    assert [entry["step"] for entry in entries(tmp_path, "start")] == [0, 1, 0]


def test_the_queues_stop_file_stops_it(tmp_path: Path, stand_ins: StandIns) -> None:
    queue = write(tmp_path)
    (tmp_path / "runs" / "night").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "STOP").touch()
    assert command(queue) == 75
    assert stand_ins.names == []
    assert command(queue) == 0


@pytest.mark.parametrize("budget", ["max-hours", "stop-at"])
def test_the_time_budget_ends_the_queue_in_time_with_all_saved(
    tmp_path: Path, stand_ins: StandIns, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr(finish, "report", lambda *_, deadline_s: given.append(deadline_s))
    queue, began = write(tmp_path), time.time()
    stand_ins.words["a"] = ["gain", "finish"]
    until = {"max-hours": str(10 / 3600), "stop-at": (datetime.now() + timedelta(seconds=10)).isoformat()}
    assert command(queue, f"--{budget}", until[budget], "--when-done", f"touch {tmp_path}/hook") == 75
    assert 5.0 < time.time() - began < 50, "the run would go on for a minute"
    assert began + 8 < given[0] < began + 30, "the report is told when all has to have ended"
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
    monkeypatch.setattr("jobs.offline.runner.DISK_EVERY_S", 0.1)
    stand_ins.words["a"] = ["gain", "finish"]
    assert command(queue, "--when-done", f"touch {tmp_path}/hook") == 75
    assert ends(tmp_path) == [("a", "stopped")]
    assert "2.0 GiB free" in entries(tmp_path, "left")[0]["why"]
    assert (tmp_path / "hook").exists()
    ready.unlink()
    assert command(queue) == 0


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
    monkeypatch.setattr(finish, "report", REPORT)
    (tmp_path / "runs" / "night").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "report").write_text("in the way")
    assert command(write(tmp_path, ["a"])) == 1
    [left] = entries(tmp_path, "left")
    assert "the report: segtrain: error:" in left["trouble"][0]
    assert "is a file; name a folder" in left["trouble"][0]
    assert (tmp_path / "runs" / "night" / "results.zip").exists()


@pytest.mark.parametrize(
    ("left_s", "tries"), [(None, ["atlas"]), (3600, ["atlas"]), (4, ["atlas", "none"]), (1, ["none"]), (-9, ["none"])]
)
def test_a_report_leaves_its_atlas_out_rather_than_miss_the_deadline(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, left_s: int | None, tries: list[str]
) -> None:
    """A stand-in: its atlas takes 3 s, all else nothing."""
    command(queue := write(tmp_path, ["a"]))
    script, said = tmp_path / "report.sh", tmp_path / "said"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *--no-atlas) echo none >>{said};; *) echo atlas >>{said}; exec sleep 3;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(finish, "sys", SimpleNamespace(executable=str(script)))
    monkeypatch.setattr(finish, "LEAST_S", 1.0)
    assert REPORT(plan.load(queue, []), lambda: True, left_s and time.time() + left_s) is None
    assert said.read_text().split() == tries


@pytest.mark.parametrize(("told", "code"), [("finish", 0), ("1", 1), ("crash", None)])
def test_the_command_when_done_runs_once_in_any_outcome(
    tmp_path: Path, stand_ins: StandIns, told: str, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, hook = write(tmp_path, ["a"]), f"echo out; echo err >&2; pwd >> {tmp_path}/hook; exit 3"
    if told == "crash":
        monkeypatch.setattr("jobs.offline.runner.Runner.run", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command(queue, "--when-done", hook)
    else:
        stand_ins.words["a"] = [told]
        assert command(queue, "--when-done", hook) == code
    assert (tmp_path / "hook").read_text() == f"{tmp_path}/runs/night\n"
    said = (tmp_path / "runs" / "night" / "log.txt").read_text()
    for line in ("when done: out", "when done: err", "when done: ended with exit code 3"):
        assert line in said
    assert ("ZeroDivisionError" in said) == (told == "crash")


@pytest.mark.law("L8")
@pytest.mark.parametrize("deaf", [False, True])
def test_a_queue_that_breaks_leaves_no_run_behind(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    """What it asks for when done is done after that: it may switch the machine off."""
    ready = tmp_path / "runs" / ".jobs" / "night" / "stand-ins" / "a" / "ready"

    def full(*_: object) -> str:
        if ready.exists():
            raise OSError(28, "No space left on device")
        return ""

    monkeypatch.setattr(machine, "scarce", full)
    monkeypatch.setattr(runner, "DISK_EVERY_S", 0.0)
    monkeypatch.setattr(runner, "GONE_S", 0.5 if deaf else 30.0)
    stand_ins.words["a"] = ["deaf" if deaf else "gain"]
    left: list[list[psutil.Process]] = []

    def note(*_: object) -> None:
        left.append([p for p in psutil.Process().children() if str(tmp_path) in " ".join(p.cmdline())])

    monkeypatch.setattr(finish, "run_when_done", note)
    with pytest.raises(OSError, match="No space left"):
        command(write(tmp_path), "--when-done", "poweroff")
    assert left == [[]]
    saved = (tmp_path / "runs" / "night" / "a" / "checkpoints" / "step-00000001").exists()
    assert saved == (not deaf)


@pytest.mark.law("L12")
@pytest.mark.parametrize("mistake", ["--stop-at=07:00", "optim.lrr=1", "--retries=-1"])
def test_a_mistake_on_the_command_line_starts_nothing(tmp_path: Path, mistake: str) -> None:
    hook = f"touch {tmp_path}/hook"
    done = _call(write(tmp_path), mistake, "--when-done", hook)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "hook").exists(), "who mistypes sits at the machine"


def _call(queue: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "jobs.offline", str(queue), *arguments], cwd=queue.parent, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": root}, check=False,
    )  # fmt: skip


def test_a_dry_run_lists_and_writes_nothing(tmp_path: Path) -> None:
    done = _call(write(tmp_path), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1:4:2] for line in done.stdout.splitlines() if "due" in line] == [["a", "due"], ["b", "due"]]
    assert not (tmp_path / "runs").exists()


def test_the_command_imports_no_torch() -> None:
    code = "import sys, jobs.offline.__main__; sys.exit('torch' in sys.modules or 'fsspec' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("processes", "at_once", "together"),
    [(1, None, 2), (2, None, 1), (1, 1, 1), (4, None, 1)],  # of two GPUs; who asks for more gets them all
)
def test_runs_share_the_gpus_and_none_has_another_s(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, processes: int, at_once: int | None,
    together: int,
) -> None:  # fmt: skip
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 0\necho 1\n")
    smi.chmod(0o755)
    monkeypatch.undo()
    again = StandIns(monkeypatch)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    queue = write(tmp_path, ["a", "b", "c"], processes=processes, at_once=at_once)
    assert command(queue, "device=auto") == 0
    at_work: dict[str, list[str]] = {}
    most = 0
    for entry in entries(tmp_path):
        if entry["event"] == "start":
            assert not {gpu for gpus in at_work.values() for gpu in gpus} & set(entry["gpus"])
            assert len(entry["gpus"]) == min(processes, 2)
            at_work[entry["run"]] = entry["gpus"]
        elif entry["event"] == "end":
            del at_work[entry["run"]]
        most = max(most, len(at_work))
    assert most == together
    assert [sets["CUDA_VISIBLE_DEVICES"] for _, sets in again.began[:1]] == ["0" if processes == 1 else "0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    assert machine.gpus() == ["3", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpus() == []


def test_two_queues_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        machine.alone(tmp_path),
        pytest.raises(RunError, match=rf"process {os.getpid()}\) runs in it"),
        machine.alone(tmp_path),
    ):
        pass
    with machine.alone(tmp_path):
        pass


def test_runs_that_a_killed_queue_left_are_waited_for(tmp_path: Path) -> None:
    held = machine.mark(tmp_path)
    process = subprocess.Popen(["sleep", "1"], pass_fds=(held,))
    os.close(held)
    with pytest.raises(LaunchError, match="runs of an earlier queue are still there"):
        machine.wait_for_orphans(tmp_path, lambda: 0, give_up_s=0.1)
    machine.wait_for_orphans(tmp_path, lambda: 0)
    assert process.wait() == 0, "it was waited for"


def test_the_journal_outlives_a_line_that_was_being_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("begin")
    with journal.path.open("a") as file:
        file.write('{"event": "sta')
    again = Journal(tmp_path)
    again.write("start", run="a")
    assert [entry["event"] for entry in Journal(tmp_path).entries] == ["begin", "start"]


KILLED = """\
[rank1]: RuntimeError: [../gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:4
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
jobs.rank FAILED
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 8)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 8
"""
BROKEN = """\
Traceback (most recent call last):
  File "x.py", line 1, in f
[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Root Cause (first observed failure):
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 8)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
"""


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (KILLED, "rank 1 was killed by SIGKILL (by hand, or for want of memory)"),
        (BROKEN, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        ("preparing\nbash: python: not found\n=====\n", "bash: python: not found"),
        ("", ""),
    ],
)
def test_the_last_words_are_the_cause_not_its_consequences(log: str, why: str) -> None:
    assert words.of_log(log) == why
