"""A run in a folder that a group shares: what one member began, another goes on with, scores and reports."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from commands import run
from long_form import all_of
from members import (
    ANNA,
    BERT,
    GROUP,
    PRIVATE,
    SHARED,
    STICKY,
    as_user,
    folder,
    needs_users,
    not_shared,
    play,
    segtrain,
    until,
)
from predictions import IMAGE, MASK, write_patient

from segtrain.config import load_config

TINY = (
    "data.image_size=32", "model={features: 2, depth: 1}", "train.global_batch=4", "data.workers=1",
    "data.validation_patients=1", "evaluate.pictures=1", "threads_per_rank=1", "device=cpu",
    "data.phantom={patients: 3, size_px: 64}", "checkpoint.every_min=0.001", "watch.every_s=0.5", "name=ours",
)  # fmt: skip
ENDLESS = "train.epochs=1000"


def training(user: int, umask: str, top: Path, *more: str) -> str:
    places = (f"data.store={top}/store", f"runs_dir={top}/runs")
    return as_user(user, umask, sys.executable, "-m", "segtrain.train", *TINY, *places, *more)


def in_sticky(top: Path, line: str) -> str:
    """The line, while only its owner may rename what lies in the folder of runs."""
    return f"chmod 3775 {top}/runs; {line}; code=$?; chmod 2775 {top}/runs; (exit $code)"


@needs_users
@pytest.mark.law("L6")
@pytest.mark.law("L8")
# 022 takes fewer rights away than 077, and by the same calls.
@pytest.mark.parametrize("umask", all_of(["022", "077"], short=["077"]))
def test_a_run_is_every_members(tmp_path: Path, umask: str) -> None:
    """One begins it and is killed; the other resumes, is stopped by the first, scores and reports; and so on."""
    top = folder(tmp_path / "group", SHARED)
    run = top / "runs" / "ours"
    saved, resumed = f"[ -e {run}/checkpoints/LATEST ]", f"grep -q resuming {run}/log.txt"
    stop = as_user(ANNA, umask, "touch", run / "STOP")
    played = play(
        f"{training(ANNA, umask, top, ENDLESS)} & pid=$!; {until(saved)}; kill -9 $pid; wait $pid",
        f"{training(BERT, '022', top, ENDLESS)} & pid=$!; {until(resumed)}; {stop}; wait $pid",
        segtrain(BERT, umask, "evaluate", run, "--checkpoint", "last", "--workers", "1"),
        segtrain(ANNA, umask, "evaluate", run, "--checkpoint", "last", "--workers", "1"),
        segtrain(BERT, umask, "report", top / "runs", "--out", top / "report", "--no-atlas"),
        segtrain(ANNA, "022", "report", top / "runs", "--out", top / "report", "--no-atlas"),
        in_sticky(top, training(ANNA, umask, top, ENDLESS, "checkpoint.every_min=1", "stop.deadline=1s")),
        in_sticky(top, training(BERT, umask, top, "train.epochs=1", "--fresh")),
        training(ANNA, umask, top, "train.epochs=1", "--fresh"),
        training(BERT, umask, top, "train.epochs=1"),
        training(BERT, "022", top, "train.epochs=1", "--fresh"),
        timeout_s=400,
    )
    assert [code for code, _ in played] == [137, 75, 0, 0, 0, 0, 75, 2, 0, 0, 0], played
    assert "resuming" in played[1][1]
    assert f"{run}: cannot be moved aside (Operation not permitted: {run} belongs to user {ANNA})" in played[7][1]
    assert sorted(path.name for path in run.parent.iterdir() if path.name[0] != ".") == ["ours", "ours.1", "ours.2"]
    assert not_shared(top) == []


@needs_users
@pytest.mark.law("L12")
def test_a_colleagues_run_that_may_not_be_written_is_named_as_that(tmp_path: Path) -> None:
    top = folder(tmp_path / "anna", PRIVATE)
    os.chown(top, ANNA, GROUP)
    store = f"data.store={folder(tmp_path / 'bert', STICKY)}"
    run = top / "runs" / "ours"
    played = play(
        training(ANNA, "022", top, "train.epochs=1"),
        training(BERT, "022", top, store, "train.epochs=2"),
        segtrain(BERT, "022", "evaluate", run, "--workers", "1"),
        segtrain(BERT, "022", "evaluate", run, "--workers", "1", "--out", tmp_path / "bert" / "scores"),
        segtrain(BERT, "022", "report", run, "--out", tmp_path / "bert" / "report"),
    )
    assert [code for code, _ in played] == [0, 2, 2, 0, 0], played
    assert f"{run}: cannot be written (Permission denied: {run} belongs to user {ANNA})" in played[1][1]
    assert "name another folder with --out" in played[2][1]


@needs_users
@pytest.mark.law("L12")
def test_a_private_run_is_named_as_that_and_left_out_among_others(tmp_path: Path) -> None:
    top = folder(tmp_path / "open", STICKY)
    theirs, ours = top / "runs" / "ours", top / "runs" / "mine"
    play(training(ANNA, "022", top, "train.epochs=1"), f"cp -r {theirs} {ours} && chmod 777 {top}/runs")
    theirs.chmod(0o700)
    private = f"{theirs} belongs to user {ANNA}, mode 700"
    played = play(
        training(BERT, "022", top, "train.epochs=1"),
        segtrain(BERT, "022", "evaluate", theirs),
        segtrain(BERT, "022", "report", theirs, "--out", top / "report"),
        segtrain(BERT, "022", "report", top / "runs", "--out", top / "report", "--no-atlas"),
        segtrain(BERT, "022", "status", top / "runs"),
    )
    assert [code for code, _ in played] == [2, 2, 2, 0, 0], played
    assert all(private in output and "Traceback" not in output for _, output in played[:4])
    assert "unreadable" in played[4][1]


@pytest.mark.law("L6")
def test_a_run_goes_on_with_a_copy_of_its_data(tmp_path: Path) -> None:
    root = tmp_path / "patients"
    for number in range(3):
        write_patient(root, f"TCGA_XX_{number}", IMAGE + number, MASK)

    def train(epochs: int) -> str:
        cfg = load_config(None, [*TINY, "data.source=lgg", f"data.root={root}", f"train.epochs={epochs}"])
        done = run(tmp_path, cfg)
        assert done.returncode == 0, done.stderr
        return done.stderr

    train(epochs=1)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(root)
    (tmp_path / "copy").rename(root)
    output = train(epochs=2)
    assert "resuming" in output
    assert "preparing" not in output
