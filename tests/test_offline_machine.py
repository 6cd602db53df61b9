"""What a queue finds on its machine: GPUs to share, another queue, orphans, a cut journal, a log's last words."""

import os
import subprocess
from pathlib import Path

import pytest
from queues import StandIns, command, entries, write

from jobs.queue import diagnosis, machine
from jobs.queue.journal import Journal
from segtrain.errors import LaunchError, RunError
from segtrain.runtime import cpus


@pytest.mark.parametrize(
    ("processes", "at_once", "together"),
    [(1, None, 2), (2, None, 1), (1, 1, 1), (4, None, 1), (1, 3, 2)],  # of two GPUs; who asks for more gets them all
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
    monkeypatch.setattr(cpus, "of_rank", lambda ranks: 64 // ranks)
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
    assert {sets["OMP_NUM_THREADS"] for _, sets in again.began} == {str(64 // (together * processes))}
    warning = "at_once=3, but a run takes 1 of the 2 GPU(s) here: 2 at a time"
    assert (tmp_path / "runs" / "night" / "log.txt").read_text().count(warning) == (at_once == 3)
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
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(held,)) as process:
        os.close(held)
        assert process.stdin is not None
        with pytest.raises(LaunchError, match="runs of an earlier queue are still there"):
            machine.wait_for_orphans(tmp_path, lambda: 0, give_up_s=0.1)
        asked = iter([0, process.stdin.close])

        def told() -> int:
            if (then := next(asked, None)) and callable(then):
                then()
            return 0

        machine.wait_for_orphans(tmp_path, told)
        assert list(asked) == [], "it was waited for"


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
        (KILLED, "rank 1 was killed by SIGKILL (by hand, or out of memory)"),
        (BROKEN, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        ("preparing\nbash: python: not found\n=====\n", "bash: python: not found"),
        ("", ""),
    ],
)
def test_the_last_words_are_the_cause_not_its_consequences(log: str, why: str) -> None:
    assert diagnosis.of_log(log) == why
