"""What `jobs.status` tells of runs that failed, and of files that are broken. No cluster."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs import ending, rank, status
from jobs.book import Book
from segtrain.errors import Diverged, LaunchError, SegtrainError, Stopped
from segtrain.run import Run

NAN = "the loss is nan at step 40 (patients TCGA_1 and TCGA_2); a lower optim.lr may help"
TF32 = "precision=tf32 is a mode of CUDA devices, and device is cpu; use precision=fp32"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "a")


def settled(run: Run, monkeypatch: pytest.MonkeyPatch, raised: Sequence[SegtrainError]) -> None:
    """A start of job 7 whose ranks ended so, through what a node runs and decides."""
    Book(run).begin("7")
    folder = Book(run).start_folder("7", 0)
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv(rank.CODES, str(folder))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for number, error in enumerate(raised):

        def command(argv: Sequence[str], error: SegtrainError = error) -> int:
            raise error

        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setattr(rank, "command", command)
        rank.main([])
    ending.settle(Book(run), "7", ending.Ended(1, *_told(folder)))


def _told(folder: Path) -> tuple[list[int], None, list[str], list[str]]:
    codes, words = ending.told_in(folder)
    return codes, None, [], words


def test_a_run_that_was_refused_before_it_began_has_failed_and_says_why(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(run, monkeypatch, [LaunchError(TF32), LaunchError(TF32), Stopped("stopped by SIGTERM")])
    row = status.summary(run, "7", None, time.time())
    assert (row["state"], row["why"]) == ("failed", f"failed: {TF32}")
    Book(run).begin("7")
    assert status.summary(run, "7", None, time.time())["state"] == "none", "it is being started again"


def test_the_reason_that_the_run_wrote_down_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.checkpoint(40).mkdir(parents=True)
    run.end("diverged", 40, 1, f"Diverged: {NAN}", 0.2)
    settled(run, monkeypatch, [Diverged(NAN), Stopped("stopped by SIGTERM")])
    assert Book(run).entries("7")[-1]["why"] == NAN
    row = status.summary(run, "7", "FAILED", time.time())
    assert (row["state"], row["why"]) == ("diverged", f"Diverged: {NAN}")
    Book(run).end("7", "failed", "failed (launcher's code 1), see the log")  # as a bug is booked, which leaves no words
    assert status.summary(run, "7", "FAILED", time.time())["why"] == f"Diverged: {NAN}"
    run.end("stopped", 40, 1, "Stopped: stopped by SIGUSR2", 0.2)
    settled(run, monkeypatch, [LaunchError(TF32)])
    assert status.summary(run, "7", "FAILED", time.time())["why"] == f"failed: {TF32}", "not what an earlier start said"
