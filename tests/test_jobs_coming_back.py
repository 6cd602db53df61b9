"""What brings a job back, how often, and what does not: the history of its starts, dead ranks, orphans. No cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs import batch, history, launch, rank, requeue, scheduler, takeover
from jobs.rank import RankEnd
from jobs.requeue import StartEnd
from segtrain.errors import RunError, StopReason
from segtrain.run import Run
from segtrain.runtime import lock

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run at step 40."""
    run = Run(tmp_path / "runs" / "a")
    run.checkpoint(40).mkdir(parents=True)
    return run


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> str:
    """This process is part of a job that runs and may be requeued."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(scheduler, "state_of", lambda job: "RUNNING")
    monkeypatch.setattr(scheduler, "requeue", lambda job: None)
    monkeypatch.setattr(scheduler, "time_limit_s", lambda job: 3600.0)
    return "7"


def preempted(reason: StopReason = StopReason.SIGUSR2) -> StartEnd:
    return StartEnd(1, [RankEnd(75, reason)], reason.name)


def later(run: Run, seconds: float) -> None:
    """All that the history knows was so much earlier."""
    file = history.History(run).folder / "starts.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    for entry in entries:
        entry["time"] = str(datetime.fromisoformat(entry["time"]) - timedelta(seconds=seconds))
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def hows(run: Run) -> list[str]:
    return [entry["how"] for entry in history.History(run).entries() if entry["event"] == "end"]


@pytest.mark.law("L14")
@pytest.mark.parametrize("end", [preempted(), StartEnd(-9, [], lost=["node 1"]), StartEnd(1, [], held=True)])
def test_what_slurm_ends_soon_after_its_start_comes_back_however_often(run: Run, job: str, end: StartEnd) -> None:
    starts = history.History(run)
    for _ in range(2 * history.MAX_FRUITLESS):
        starts.begin(job)
        assert requeue.conclude(starts, job, end)[0] == 75
    assert hows(run) == ["requeued"] * 2 * history.MAX_FRUITLESS


@pytest.mark.law("L14")
@pytest.mark.parametrize(
    ("end", "lasted_s", "limit_s"),
    [
        (preempted(), 400.0, 3600.0),
        (preempted(), 70.0, 120.0),  # all the time that its limit leaves it
        (StartEnd(1, [RankEnd(75, StopReason.DEADLINE)]), 0.0, 3600.0),  # by itself
        (StartEnd(1, [RankEnd(75, StopReason.OUT_OF_MEMORY)]), 0.0, 3600.0),
    ],
)
def test_a_start_that_had_time_to_gain_a_step_or_ended_by_itself_counts(
    run: Run, job: str, monkeypatch: pytest.MonkeyPatch, end: StartEnd, lasted_s: float, limit_s: float
) -> None:
    monkeypatch.setattr(scheduler, "time_limit_s", lambda job: limit_s)
    starts = history.History(run)
    for _ in range(history.MAX_FRUITLESS):
        starts.begin(job)
        later(run, lasted_s)
        requeue.conclude(starts, job, end)
    assert hows(run) == ["requeued", "requeued", "given up"]


@pytest.mark.law("L14")
@pytest.mark.parametrize(("lived_s", "refused"), [(20.0, False), (1000.0, True)])
def test_a_start_that_left_no_word_counts_if_it_lived_long(run: Run, job: str, lived_s: float, refused: bool) -> None:
    """Its node failed, or SLURM killed it: the last file that it wrote says when."""
    starts = history.History(run)
    run.log_file.touch()
    for _ in range(history.MAX_FRUITLESS):
        starts.begin(job)
        later(run, lived_s)
    if refused:
        with pytest.raises(RunError, match="the last 3 starts of job 7 gained no step"):
            starts.begin(job)
    else:
        starts.begin(job)
    assert hows(run)[:3] == ["cut off"] * 3


@pytest.mark.law("L14")
@pytest.mark.parametrize("wrote", [False, True], ids=["nothing yet", "in an earlier start"])
def test_a_start_that_was_cut_off_before_it_wrote_anything_does_not_count(run: Run, job: str, wrote: bool) -> None:
    starts = history.History(run)
    if wrote:
        run.log_file.touch()
        os.utime(run.log_file, (1e9, 1e9))
    for _ in range(history.MAX_FRUITLESS + 1):
        starts.begin(job)
    assert hows(run) == ["cut off"] * history.MAX_FRUITLESS


@pytest.mark.law("L14")
def test_a_job_whose_rank_is_killed_is_tried_again_three_times_and_the_rank_is_named(
    tmp_path: Path, run: Run, job: str
) -> None:
    starts, codes = history.History(run), []
    (tmp_path / "dead-n2").write_text('[[3, "SIGKILL"]]')
    for step in range(41, 45):
        starts.begin(job)
        codes.append(requeue.conclude(starts, job, requeue.start_end(tmp_path, 1))[0])
        run.checkpoint(step).mkdir()
    assert codes == [75, 75, 75, 1]
    assert hows(run) == ["requeued", "requeued", "requeued", "failed"]
    assert starts.last(job)["why"] == "rank 3 on n2 was killed by SIGKILL, by hand or out of memory"
    assert starts.last(job)["faults"] == ["rank 3 on n2 was killed by SIGKILL"]


@pytest.mark.law("L14")
@pytest.mark.parametrize("code", [-9, 137])
def test_a_launcher_that_is_killed_counts_as_its_ranks_do_and_not_where_slurm_ends_it(
    tmp_path: Path, run: Run, job: str, code: int
) -> None:
    starts, codes = history.History(run), []
    for step in range(41, 45):
        starts.begin(job)
        codes.append(requeue.conclude(starts, job, requeue.start_end(tmp_path, code))[0])
        run.checkpoint(step).mkdir()
    assert codes == [75, 75, 75, 1]
    assert starts.last(job)["why"] == "the launcher was killed by SIGKILL, by hand or out of memory"
    assert requeue.start_end(tmp_path, code, "SIGTERM").faults == []
    assert requeue.start_end(tmp_path, code, None, ["node 1"]).faults == []


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("CUDA error: uncorrectable ECC error encountered\nCompile with", True),
        ("shapes cannot be multiplied", False),
    ],
)
def test_a_rank_whose_machine_failed_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, fault: bool
) -> None:
    def command(argv: Sequence[str]) -> int:
        raise RuntimeError(message)

    monkeypatch.setattr(rank, "command", command)
    monkeypatch.setenv(rank.START_FOLDER, str(tmp_path))
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    with pytest.raises(RuntimeError):
        rank.main([])
    end = requeue.start_end(tmp_path, 1)
    assert (end.code, bool(end.faults)) == (1, fault)
    assert not fault or end.sentence.startswith("rank 0 on n2: RuntimeError: CUDA error: uncorrectable ECC error")


def launched(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """jobs.launch with two workers that run the script."""
    options = ("--standalone", "--nproc-per-node=2", "--no-python")
    return subprocess.run(
        [sys.executable, "-m", "jobs.launch", *options, "bash", "-c", script],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, rank.START_FOLDER: str(folder), "SLURMD_NODENAME": "n2"},
    )  # fmt: skip


@pytest.mark.law("L8")
def test_an_ordinary_stop_leaves_no_traceback_of_torchrun_and_a_killed_rank_its_name(tmp_path: Path) -> None:
    done = launched(tmp_path, "exit 75")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert launch.dead_ranks(tmp_path) == []
    done = launched(tmp_path, '[ "$RANK" = 1 ] && kill -KILL "$BASHPID"; exec sleep 60')
    assert (done.returncode, "Root Cause" in done.stderr) == (1, True)
    assert launch.dead_ranks(tmp_path) == ["rank 1 on n2 was killed by SIGKILL"]


def test_a_signal_to_torchrun_leaves_no_traceback_either(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.launch", "--standalone", "--nproc-per-node=1", "--no-python", "bash", "-c",
         f"trap 'exit 75' TERM; touch {ready}; while :; do sleep 0.1; done"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not ready.exists():
        time.sleep(0.05)
    process.terminate()
    errors = process.communicate(timeout=60)[1]
    assert (process.returncode, "Traceback" in errors) == (1, False), errors


ORPHAN = """
import sys, time
from pathlib import Path
from segtrain.run import Run
from segtrain.runtime import lock
run = Run(Path(sys.argv[1]))
assert lock.take(run.lock_file) is not None
print("holds", flush=True)
while sys.argv[2] == "deaf" or not run.stop_file.exists():
    time.sleep(0.02)
print(run.stop_file.read_text())
"""


@pytest.mark.law("L14")
@pytest.mark.parametrize(("orphan", "of", "free"), [("saves", "7", True), ("deaf", "7", False), ("deaf", "6", True)])
def test_an_orphan_of_the_job_is_told_to_leave_and_waited_for(
    run: Run, job: str, monkeypatch: pytest.MonkeyPatch, orphan: str, of: str, free: bool
) -> None:
    """Never a user's error; a run that another job trains is refused by the training, as ever."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(takeover, "ORPHANS_S", 60.0 if orphan == "saves" else 1.5)
    (run.root / "environment.json").write_text(json.dumps([{"job": of}]))
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(run.root), orphan], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "holds\n"
        assert takeover.take_over(run, lambda: False) == free
        assert not run.stop_file.exists()
        if orphan == "saves":
            assert process.stdout.read().strip() == "7-1"
        process.kill()
    assert lock.take(run.lock_file) is not None


@pytest.mark.law("L14")
def test_an_orphan_that_ends_late_decides_nothing_for_the_start_after_it(
    run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requeued: list[str] = []
    monkeypatch.setattr(scheduler, "requeue", requeued.append)
    starts = history.History(run)
    starts.begin(job)
    starts.start_folder(job, 1).mkdir(parents=True)  # of the start that SLURM made meanwhile
    assert requeue.conclude(starts, job, preempted())[0] == 75
    assert (requeued, hows(run)) == ([], [])


@pytest.mark.law("L14")
@pytest.mark.parametrize(
    ("code", "noted", "how"),
    [
        (138, "", "requeued"),
        (143, "", "requeued"),
        (75, "SIGUSR2", "requeued"),
        (137, "", "requeued"),
        (1, "", "failed"),
    ],
)
def test_a_template_whose_step_a_signal_ended_comes_back(
    run: Run, job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, noted: str,
    how: str,
) -> None:  # fmt: skip
    """Before any rank began: by the step's exit code, or by what slurm/node.sh noted."""
    monkeypatch.setattr(scheduler, "dead_nodes", list)
    assert batch.command(["begin", str(run.root)]) == 0
    folder = Path(capsys.readouterr().out.strip())
    if noted:
        (folder / "signal-0").write_text(f"{noted}\n")
    batch.command(["end", str(run.root), "--code", str(code), "--asked", ""])
    assert hows(run) == [how]


def test_signals_have_their_numbers_here() -> None:
    """Exit codes of srun in jobs/job.sh: 128 and the signal."""
    signals: dict[str, Any] = {"SIGUSR1": 138, "SIGUSR2": 140, "SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}
    assert {name: 128 + signal.Signals[name] for name in signals} == signals
