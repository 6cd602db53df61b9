"""The queue: order, retries, stops, the command when done. With stand-ins for trainings."""

import os
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from queues import StandIns, command, ends, entries, write

from jobs import local
from jobs.offline import wrap_up
from jobs.queue import diagnosis, machine, runner
from segtrain.config import load_config
from segtrain.config.own_parts import own_parts
from segtrain.errors import ConfigError
from segtrain.run import Result
from segtrain.runtime import stop


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
    assert diagnosis.score(Result("running")) == ""
    many = Result("finished", best_dsc=0.86864, ci_low=0.8321, ci_high=0.9049, n=6)
    assert diagnosis.score(many) == "0.8686 (n = 6, 95% CI 0.832 to 0.905)"


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


@pytest.mark.law("L13")
def test_all_runs_train_the_own_code_that_the_queue_began_with(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of the file meanwhile; the snapshot has a copy of it for each run."""
    own = tmp_path / "mine.py"
    own.write_text(text := "def mine(pred, target):\n    return ((pred - target) ** 2).mean()\n")
    queue = write(tmp_path, ["a", "b", "c"], overrides={"runs_dir": str(tmp_path / "runs"), "loss": f"{own}:mine"})
    start, starts = local.start, []

    def start_and_edit(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        process = start(*arguments, **options)
        starts.append(process)
        if len(starts) == 1:
            own.write_text("def mine(pred, target):\n    return 0\n")
        else:
            own.unlink(missing_ok=True)
        return process

    monkeypatch.setattr(local, "start", start_and_edit)
    assert command(queue, "--max-hours", "5") == 0
    for name in ("a", "b", "c"):
        started = load_config(tmp_path / "runs" / "night" / name / "config.yaml")
        [part] = own_parts(started)
        assert Path(part.reference.where).read_text() == text
        assert started.stop.deadline, "the queue's"


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


def test_the_queues_stop_file_stops_it(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "LOOK_WAIT_S", 60.0)  # the first look is waited for, however slow this machine is
    queue = write(tmp_path)
    (tmp_path / "runs" / "night").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "STOP").touch()
    assert command(queue) == 75
    assert stand_ins.names == []
    assert command(queue) == 0


@pytest.mark.parametrize(("told", "code"), [("finish", 0), ("1", 1), ("crash", None)])
def test_the_command_when_done_runs_once_in_any_outcome(
    tmp_path: Path, stand_ins: StandIns, told: str, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, hook = write(tmp_path, ["a"]), f": t0ken; echo out; echo err >&2; pwd >> {tmp_path}/hook; exit 3"
    if told == "crash":
        monkeypatch.setattr("jobs.queue.runner.Runner.run", lambda _: 1 / 0)
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
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert not [file for file in files if b"t0ken" in file.read_bytes()], "journal and log leave the machine"
    with zipfile.ZipFile(tmp_path / "runs" / "night" / "results.zip") if told != "crash" else nullcontext() as packed:
        assert not packed or not [name for name in packed.namelist() if b"t0ken" in packed.read(name)]


def test_the_command_when_done_does_not_run_again_where_there_is_nothing_to_do(
    tmp_path: Path, stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `@reboot`, with `poweroff`, nobody could log in any more."""
    hook = ("--when-done", f"echo off >> {tmp_path}/hook")
    for _ in range(3):
        assert command(write(tmp_path), *hook) == 0
    assert (tmp_path / "hook").read_text() == "off\n"
    assert capsys.readouterr().err.count("not run, since nothing was started and it has run since the last start") == 2
    assert command(write(tmp_path, ["a", "b", "c"]), *hook) == 0
    assert stand_ins.names == ["a", "b", "c"]
    assert (tmp_path / "hook").read_text() == "off\noff\n", "c was started"


def test_the_command_when_done_runs_where_the_queue_had_not_ended_or_was_told_to(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, off = ("--when-done", f"echo off >> {tmp_path}/hook"), tmp_path / "hook"
    stand_ins.words["b"] = ["parent"]
    assert command(write(tmp_path, ["b"]), *hook, "--stop-at", "2100-01-01") == 75
    assert not off.exists()
    assert command(write(tmp_path, ["b"]), *hook, "--stop-at", "2020-01-01") == 75
    assert off.read_text() == "off\n", "its time is over, and it had been told to stop, not ended"
    assert command(write(tmp_path, ["b"]), *hook, "--stop-at", "2020-01-01") == 75
    assert off.read_text() == "off\n"
    stand_ins.words["c"] = ["1"]
    monkeypatch.setattr(wrap_up, "pack", lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            command(write(tmp_path, ["c"], retries=0), *hook)
    assert off.read_text() == "off\noff\n", "once for c, however often the end breaks"


def test_an_end_that_was_cut_short_before_the_command_when_done_is_made_good(
    tmp_path: Path, stand_ins: StandIns
) -> None:
    """The last push comes in between, and may be what a reboot ended."""
    assert command(write(tmp_path)) == 0
    started = list(stand_ins.names)
    for _ in range(2):
        assert command(write(tmp_path), "--when-done", f"echo off >> {tmp_path}/hook") == 0
    assert (tmp_path / "hook").read_text() == "off\n"
    assert stand_ins.names == started


@pytest.mark.law("L12")
@pytest.mark.parametrize("sync", [False, True])
def test_an_end_that_is_past_is_refused_before_anything_begins(tmp_path: Path, stand_ins: StandIns, sync: bool) -> None:
    options = ["--sync", str(tmp_path / "bucket")] if sync else []
    with pytest.raises(ConfigError, match=r"--stop-at 2020-01-01: is past, it is 20.*; give a later time"):
        command(write(tmp_path), "--stop-at", "2020-01-01", "--when-done", f"touch {tmp_path}/hook", *options)
    assert stand_ins.names == []
    assert not (tmp_path / "hook").exists()


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

    monkeypatch.setattr(wrap_up, "run_when_done", note)
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
