"""`jobs.logs`: the output of a run's newest start, from wherever the job writes it, and followed to the job's end."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from slurm_programs import Slurm, entry

from jobs import history, logs, resources, submission
from jobs.submission import Submission
from segtrain.config import Config
from segtrain.errors import RunError
from segtrain.run import Outcome, Run

FIRST = "2026-11-29 10:00:00,000 jobs: dice: node {node} of 2 (n1), job 12_1, restart {restart}\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def made(tmp_path: Path, tiny: Config) -> Submission:
    """An ablation of two runs as array 12."""
    configs = [replace(tiny, name=name, runs_dir=str(tmp_path / "runs" / "loss")) for name in ("bce", "dice")]
    one = submission.create(str(tmp_path / "runs"), "loss", configs, resources.Resources(), members=[])
    one.keep(runs={"bce": "12_0", "dice": "12_1"}, report="99")
    return one


def log(made: Submission, job: str, node: int = 0) -> Path:
    return made.logs / f"{job}_{node}_log.out"


def call(tmp_path: Path, *arguments: str) -> None:
    assert logs.command([*arguments, "--runs-dir", str(tmp_path / "runs")]) == 0


def test_the_newest_start_of_a_job_is_shown(
    tmp_path: Path, made: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    log(made, "12_0").write_text("of another run\n")
    newest = FIRST.format(node=0, restart=1) + "[rank 1] warning: no room\nepoch 2\n"
    log(made, "12_1").write_text(FIRST.format(node=0, restart=0) + "epoch 1\n" + newest)
    for name in ("loss/dice", "dice"):
        call(tmp_path, name)
        assert capsys.readouterr().out == newest
    log(made, "99").write_text("the report\n")
    call(tmp_path, "loss/report")
    assert capsys.readouterr().out == "the report\n"


def test_the_lines_of_several_nodes_are_marked(
    tmp_path: Path, made: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    for node in (0, 1):
        log(made, "12_1", node).write_text("old\n" + FIRST.format(node=node, restart=3) + f"of {node}, unfinished")
    call(tmp_path, "loss/dice")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["[node 0] "] * 2 + ["[node 1] "] * 2
    assert lines[3] == "[node 1] of 1, unfinished"


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss", "loss: 3 runs in .* have this name; name one of them: loss/bce, loss/dice, loss/report"),
        ("loss/dise", r"loss/dise: no run of this name in .*; did you mean loss/dice"),
        ("any", "any: no run of this name in .*; see segtrain status, or name the folder with --runs-dir"),
        ("loss/dice", r"loss/dice: has written nothing yet \(pending, job 12_1: waits: Priority\); follow it with -f"),
    ],
)
def test_what_has_no_output_is_named_with_what_to_do(
    tmp_path: Path, slurm: Slurm, made: Submission, name: str, message: str
) -> None:
    slurm.queue(entry("12_1", "PENDING", "loss", reason="Priority"))
    with pytest.raises(RunError, match=message):
        call(tmp_path, name)


@pytest.mark.law("L12")
def test_a_folder_that_is_not_there_and_a_file_that_may_not_be_read_are_named(tmp_path: Path, made: Submission) -> None:
    with pytest.raises(RunError, match=r"nowhere: no such folder; name with --runs-dir"):
        logs.command(["any", "--runs-dir", str(tmp_path / "nowhere")])
    log(made, "12_1").mkdir()
    with pytest.raises(RunError, match=r"12_1_0_log\.out: cannot be read \(Is a directory\); ask its owner"):
        call(tmp_path, "loss/dice")


def test_a_template_s_output_is_where_its_batch_script_said(
    tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "runs" / "a")
    run.root.mkdir(parents=True)
    run.config_file.write_text("train: {epochs: 10}\n")
    output = tmp_path / "segtrain-12.out"
    output.write_text("a: job 12, restart 0\nepoch 1\na: job 12, restart 1\nepoch 2\n")
    history.History(run).begin("12", slurm={"name": "segtrain", "log": str(output)})
    call(tmp_path, "a")
    assert capsys.readouterr().out == "a: job 12, restart 1\nepoch 2\n"


def test_what_runs_without_slurm_has_its_output_shown_too(
    tmp_path: Path, made: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that is left alone keeps its runs' output in a file each; in the foreground it is the run's own log."""
    made.keep(runs={"bce": "offline-0", "dice": "local-20261129-100000-1"})
    folder = tmp_path / "runs" / "loss"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "bce.log").write_text("jobs: bce: node 0 of 1 (n1), job offline-0, restart 0\nepoch 1\n")
    run = made.run("dice")
    run.root.mkdir(parents=True)
    run.log_file.write_text("2026-11-29 10:00:00 epoch 1\n2026-11-29 11:00:00 epoch 2\n[rank 1] more\n")
    run.environment_file.write_text(json.dumps([{"time": f"2026-11-29T{hour}:00:00+0000"} for hour in (10, 11)]))
    call(tmp_path, "loss/bce")
    assert capsys.readouterr().out.endswith("restart 0\nepoch 1\n")
    call(tmp_path, "loss/dice")
    assert capsys.readouterr().out == "2026-11-29 11:00:00 epoch 2\n[rank 1] more\n"


class Clock:
    """The time of jobs.logs, and what happens as it passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, meanwhile: dict[float, Callable[[], object]]) -> None:
        self.now, self.meanwhile = 0.0, meanwhile
        times = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep, time=time.time)
        monkeypatch.setattr(logs, "time", times)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 300, "it does not end"
        for when in sorted(self.meanwhile):
            if when <= self.now:
                self.meanwhile.pop(when)()


def test_a_job_is_followed_over_its_restarts_to_its_end(
    tmp_path: Path, slurm: Slurm, made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It waits, trains, is put back into the queue while SLURM is away, comes back on two nodes, and ends."""
    output = log(made, "12_1")

    def write(text: str, node: int = 0) -> None:
        with log(made, "12_1", node).open("a") as file:
            file.write(text)

    def state(state: str, reason: str = "") -> Callable[[], None]:
        return lambda: slurm.queue(entry("12_1", state, "loss", reason=reason))

    alive = (slurm.folder / "squeue").read_text()

    def comes_back() -> None:
        (slurm.folder / "squeue").write_text(alive)
        state("PENDING", "BeginTime")()

    state("PENDING", "Priority")()
    clock = Clock(
        monkeypatch,
        {
            20.0: state("RUNNING"),
            21.0: lambda: write("epoch 1\n"),
            40.0: slurm.is_away,
            60.0: comes_back,
            80.0: state("NODE_FAIL"),  # for a moment, while it is put back
            81.0: state("PENDING", "BeginTime"),
            100.0: state("RUNNING"),
            101.0: lambda: write("epoch 2\n"),
            102.0: lambda: write("of the second\n", 1),
            119.5: lambda: write("the last word"),
            120.0: state("COMPLETED"),
        },
    )
    call(tmp_path, "loss/dice", "-f")
    told = capsys.readouterr()
    assert told.out.splitlines() == ["epoch 1", "epoch 2", "[node 1] of the second", "[node 0] the last word"]
    assert "segtrain: loss/dice: pending: waits: Priority" in told.err
    assert "segtrain: loss/dice: SLURM does not answer" in told.err
    assert (output.exists(), clock.now > 120) == (True, True)


def test_a_run_that_goes_on_in_another_job_is_followed_there(
    tmp_path: Path, slurm: Slurm, made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where SLURM requeues no jobs: the new one is submitted before the old one ends."""
    log(made, "12_1").write_text("epoch 1\n")
    slurm.queue(entry("12_1", "RUNNING", "loss"))

    def goes_on() -> None:
        made.keep(runs={"bce": "12_0", "dice": "13"})
        slurm.queue(entry("12_1", "COMPLETED", "loss"), entry("13", "RUNNING", "loss"))
        log(made, "13").write_text("epoch 2\n")

    Clock(monkeypatch, {20.0: goes_on, 40.0: lambda: slurm.queue(entry("13", "COMPLETED", "loss"))})
    call(tmp_path, "loss/dice", "-f")
    assert capsys.readouterr().out == "epoch 1\nepoch 2\n"


@pytest.mark.parametrize("end", ["finished", "retried", "killed"])
def test_a_run_without_slurm_is_followed_to_its_end(
    tmp_path: Path, made: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    made.keep(runs={"bce": "offline-0", "dice": "offline-0"})
    folder, run = tmp_path / "runs" / "loss", made.run("bce")
    (folder / "logs").mkdir(parents=True)
    output, journal = folder / "logs" / "bce.log", folder / "journal.jsonl"
    output.write_text("epoch 1\n")
    run.root.mkdir(parents=True)
    run.config_file.write_text("train: {epochs: 10}\n")

    def happens(event: str, **values: str) -> None:
        with journal.open("a") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")

    def ends(how: str) -> None:
        with output.open("a") as file:
            file.write("the last word\n")
        happens("end", run="bce", how=how)

    def killed() -> None:
        monkeypatch.setattr("jobs.run_state.QUIET_S", -1.0)

    happens("begin")
    happens("start", run="bce")
    happens("end", run="dice", how="finished")
    meanwhile: dict[float, Callable[[], object]] = {20.0: lambda: ends("finished")}
    if end == "retried":
        meanwhile = {
            20.0: lambda: ends("failed"),
            30.0: lambda: happens("start", run="bce"),
            40.0: lambda: ends("finished"),
        }
    elif end == "killed":
        meanwhile = {20.0: killed}
    clock = Clock(monkeypatch, meanwhile)
    call(tmp_path, "loss/bce", "-f")
    words = {"finished": 1, "retried": 2, "killed": 0}[end]
    assert capsys.readouterr().out == "epoch 1\n" + words * "the last word\n"
    assert (40 if end == "retried" else 20) <= clock.now < 60


def test_a_run_of_torchrun_alone_is_shown_and_followed_by_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "runs" / "a")
    run.root.mkdir(parents=True)
    run.config_file.write_text("train: {epochs: 10}\n")
    run.log_file.write_text("epoch 1\n")
    Clock(monkeypatch, {10.0: lambda: run.end(Outcome("finished", 4, 10, 0.5))})
    call(tmp_path, "a", "-f")
    assert capsys.readouterr().out == "epoch 1\n"
