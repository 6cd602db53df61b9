"""Ranks whose torchrun is killed: none is left, at whatever moment of their start that is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from commands import TORCHRUN
from long_form import LONG
from trainings import gone

from segtrain.config import Config, to_yaml

GONE_S = 10.0
START_S = 60.0
CLOCKS_S = 1.2  # more than the clocks of files and of processes differ
# From the moment when there are ranks, whose imports take some 3 s; the long form goes through a start.
MOMENTS_S = [number / 5 for number in range(40)] if LONG else [0.0, 0.6, 2.0]

# What torchrun does for a rank: a folder, then a process with its variables. It writes down the rank's process id.
LAUNCHER = """
import os, subprocess, sys, time
folder, program = sys.argv[1], sys.argv[2:]
os.makedirs(f"{folder}/launch/attempt_0/0")
variables = dict(TORCHELASTIC_RUN_ID="x", TORCHELASTIC_ERROR_FILE=f"{folder}/launch/attempt_0/0/error.json")
rank = subprocess.Popen(program, env=os.environ | variables, start_new_session=True)
open(f"{folder}/rank.tmp", "w").write(str(rank.pid))
os.rename(f"{folder}/rank.tmp", f"{folder}/rank")
time.sleep(60)
"""
RANK = """
import pathlib, signal, sys, time
from segtrain.runtime.launcher import follow_torchrun
time.sleep(float(sys.argv[1]))  # it imports
follow_torchrun(signal.SIGKILL)
pathlib.Path(sys.argv[2]).write_text("")
time.sleep(60)
"""


def wait_for(condition: Callable[[], bool], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@contextmanager
def launched(folder: Path, *program: str) -> Iterator[int]:
    """The process id of the program, which a launcher has started as its rank; the launcher is killed at the end."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(folder), *program])
    try:
        assert wait_for((folder / "rank").exists, START_S)
        yield int((folder / "rank").read_text())
    finally:
        launcher.kill()
        launcher.wait()


@pytest.mark.law("L8")
def test_a_rank_ends_with_its_launcher(tmp_path: Path) -> None:
    mark = tmp_path / "follows"
    with launched(tmp_path, sys.executable, "-c", RANK, "0", str(mark)) as rank:
        time.sleep(CLOCKS_S)
        assert wait_for(mark.exists, START_S)
        assert not gone(rank), "its launcher is there"
    assert wait_for(lambda: gone(rank), GONE_S)


@pytest.mark.law("L8")
def test_a_rank_ends_whose_launcher_went_while_it_imported(tmp_path: Path) -> None:
    mark = tmp_path / "follows"
    with launched(tmp_path, sys.executable, "-c", RANK, "1.5", str(mark)) as rank:
        pass
    assert wait_for(lambda: gone(rank), GONE_S)
    assert not mark.exists()


def test_a_rank_may_be_started_by_a_script_between(tmp_path: Path) -> None:
    mark = tmp_path / "follows"
    script = ["sh", "-c", '"$@"; exit $?', "sh"]
    with launched(tmp_path, *script, sys.executable, "-c", RANK, "1.5", str(mark)) as between:
        assert wait_for(mark.exists, START_S)
        time.sleep(0.2)
        assert not gone(between), "the script has not ended, and so the rank has not"
        os.killpg(between, signal.SIGKILL)


@pytest.mark.law("L8")
@pytest.mark.parametrize("after_s", MOMENTS_S)
def test_no_process_is_left_of_a_start_whose_torchrun_is_killed(after_s: float, tiny: Config, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text(to_yaml(tiny))
    command = [*TORCHRUN, "--nproc_per_node=2", "-m", "segtrain.train", "--config", "given.yaml", "train.epochs=999"]
    output = tmp_path / "output.txt"
    with output.open("wb") as file:
        torchrun = psutil.Popen(command, cwd=tmp_path, stdout=file, stderr=file, start_new_session=True)
    assert wait_for(lambda: len(torchrun.children()) == 2, START_S)
    time.sleep(after_s)
    everything = torchrun.children(recursive=True)
    torchrun.kill()
    torchrun.wait()
    try:
        assert wait_for(lambda: all(gone(process.pid) for process in everything), GONE_S), output.read_text()
    finally:
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
