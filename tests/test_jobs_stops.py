"""Why a job or a queue stopped is a value, in records of earlier versions too; its sentence decides nothing."""

import json
import time
from pathlib import Path

import pytest
from queues import StandIns, command, entries, write

from jobs import history, rank, requeue, scheduler
from jobs.queue.journal import Journal
from jobs.rank import RankEnd
from jobs.requeue import StartEnd
from segtrain.errors import StopReason
from segtrain.run import Run
from segtrain.runtime.stop import Stop


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run at step 40."""
    run = Run(tmp_path / "runs" / "a")
    run.checkpoint(40).mkdir(parents=True)
    return run


@pytest.fixture
def reworded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reason has the same sentence."""
    monkeypatch.setattr(StopReason, "sentence", property(lambda reason: "the wish of somebody"))


@pytest.mark.law("L8")
def test_the_users_stop_file_ends_the_job(run: Run, reworded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the reason's value, whatever its sentence says and is called by then."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(scheduler, "state_of", lambda job: "RUNNING")
    monkeypatch.setattr(scheduler, "requeue", lambda job: None)
    starts = history.History(run)
    for reason, how in ((StopReason.STOP_FILE, "stopped"), (StopReason.DEADLINE, "requeued")):
        ranks = [RankEnd(75, reason, f"stopped by {reason.sentence} before the first step")]
        assert requeue.conclude(starts, "7", StartEnd(1, ranks))[0] == 75
        assert (starts.last("7")["how"], starts.last("7")["reason"]) == (how, reason.name)
    message = "the wish of somebody; submit it again to go on"
    assert starts.entries("7")[-2]["why"] == f"stopped by {message}"


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("stopped by the STOP file; submit it again to go on", StopReason.STOP_FILE),
        ("stopped by the STOP file before the first step; the same command goes on from there", StopReason.STOP_FILE),
        ("the queue stops: the STOP file", StopReason.STOP_FILE),
        ("stopped by the deadline at step 40; the same command goes on from there", StopReason.DEADLINE),
        ("the deadline", StopReason.DEADLINE),
        ("stopped by SIGTERM", StopReason.SIGTERM),
        ("stopped by itself", None),
        ("the disk: 1.0 GiB free in /SIGTERM, min_free_gib is 2", None),
    ],
)
def test_records_of_earlier_versions_keep_their_meaning(
    tmp_path: Path, run: Run, why: str, reason: StopReason | None
) -> None:
    """They had the reason in their sentence alone: in histories, in journals, in what a rank left behind."""
    starts = history.History(run)
    starts.folder.mkdir(parents=True)
    old = {"time": "2026-11-23T20:00:00+0000", "event": "end", "job": "7", "how": "stopped", "why": why}
    (starts.folder / "starts.jsonl").write_text(json.dumps(old) + "\n")
    assert history.stop_reason(starts.last("7")) is reason
    (tmp_path / "rank-0").write_text(f"75\n{why}")
    assert rank.rank_ends(tmp_path) == [RankEnd(75, reason, why)]
    assert history.stop_reason(old | {"reason": None}) is None, "where the field is, it alone counts"


@pytest.mark.law("L8")
@pytest.mark.parametrize(("reason", "starts", "left"), [("STOP_FILE", 2, "DONE"), ("DEADLINE", 1, "DEADLINE")])
def test_what_stopped_a_run_is_known_by_its_value_whatever_its_sentence(
    tmp_path: Path, stand_ins: StandIns, reworded: None, reason: str, starts: int, left: str
) -> None:
    """A run's STOP file has it held, and the others go on; the queue's deadline, given to a run, ends the queue."""
    stand_ins.words["a"] = [f"stop:{reason}", "finish"]
    queue = write(tmp_path)
    assert command(queue, "--stop-at", "2100-01-01") == 75
    assert len(stand_ins.names) == starts
    [entry] = entries(tmp_path, "left")
    assert entry["reason"] == left
    assert entries(tmp_path, "end")[0]["reason"] == reason
    assert command(queue, "--stop-at", "2100-01-01") == 0
    assert sorted(stand_ins.names) == ["a", "a", "b"]


def test_a_queue_of_an_earlier_version_goes_on(tmp_path: Path, stand_ins: StandIns) -> None:
    """Its journal says in words alone why it was left: SIGTERM does not renew its hours, its deadline does."""
    stand_ins.words["a"] = ["parent", "finish"]
    queue = write(tmp_path)
    assert command(queue) == 75
    path = tmp_path / "runs" / "night" / "journal.jsonl"
    old = [{key: value for key, value in entry.items() if key != "reason"} for entry in entries(tmp_path)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in old))
    first_s = Journal(path.parent).began_s()
    assert command(queue) == 0
    assert stand_ins.names == ["a", "a", "b"]
    assert Journal(path.parent).since_done() == []
    for why, renewed in (("SIGTERM", False), ("the deadline", True), ("the STOP file", True), ("the disk: full", True)):
        changed = [entry | {"why": why} if entry["event"] == "left" else entry for entry in old]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in changed))
        assert (Journal(path.parent).began_s() > first_s) == renewed, why


@pytest.mark.parametrize(
    ("content", "start", "stops"),
    [
        ("", "7-0", True),
        ("7-1\n", "7-0", True),
        ("7-1", "7-1", False),
        ("7-1", "8-0", False),
        ("7-1", "", False),
        ("please", "7-0", True),
    ],
)
@pytest.mark.law("L8")
def test_a_stop_file_stops_whom_it_is_for_and_is_gone_then(
    tmp_path: Path, content: str, start: str, stops: bool
) -> None:
    """One that an earlier job left behind, by name, stops nobody."""
    file, stop = tmp_path / "STOP", Stop()
    file.write_text(content)
    stop.watch(file, None, start)
    end = time.monotonic() + 10
    while file.exists() and time.monotonic() < end:
        stop.reason()
        time.sleep(0.01)
    assert stop.reason() is (StopReason.STOP_FILE if stops else None)
    assert not file.exists()
