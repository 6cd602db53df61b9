"""Stacks of a process that hangs are written, and writing them is no danger to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trainings import gone

BUSY = """
import sys, threading, time
from pathlib import Path
from segtrain.config import WatchConfig
from segtrain.run import Run
from segtrain.training.watch import Watch

end = time.monotonic() + 2

def deep(n):
    return n and 1 + deep(n - 1)

def yielding(n):
    if n:
        yield from yielding(n - 1)
    yield n

def work():
    while time.monotonic() < end:
        deep(60), sum(yielding(30))
        exec(compile("f = lambda n: [m for m in range(n)]; f(50)", "<made>", "exec"), {})

def start_threads():
    while time.monotonic() < end:
        thread = threading.Thread(target=deep, args=(50,))
        thread.start()
        thread.join()

with Watch(Run(Path(sys.argv[1])), WatchConfig(every_s=0.002, stall_s=0.002)):
    threads = [threading.Thread(target=work), threading.Thread(target=start_threads)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
"""

HANGING = """
import ctypes, sys, time
from segtrain.runtime import stacks

stacks.LEAST_S = 0.5
onlooker = stacks.Onlooker(open(sys.argv[1], "w"), 0.0)
print(onlooker._process.pid, flush=True)
sys.stdin.readline()

def hang_here():
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

hang_here()
"""


def test_stacks_written_at_a_short_interval_do_no_harm_to_threads_that_work(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", BUSY, str(tmp_path / "run")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    stacks = (tmp_path / "run/ranks/0.stacks").read_text()
    assert stacks.count("Timeout (") > 1  # some 100 on an idle machine
    assert "in work\n" in stacks


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="signals of one's own are Linux's")
def test_a_stack_is_written_where_the_interpreter_lock_is_held_not_where_the_process_was_suspended(
    tmp_path: Path,
) -> None:
    file = tmp_path / "stacks"
    arguments = [sys.executable, "-c", HANGING, str(file)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        onlooker = int(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        assert file.read_text() == ""
        os.kill(onlooker, signal.SIGTERM)  # SLURM sends it to every process of a job
        process.stdin.write("\n")
        process.stdin.flush()
        wait_until(lambda: "hang_here" in file.read_text())
        assert file.read_text().startswith("Stack (most recent call first):\n")
        assert 'in hang_here\n  File "<string>"' in file.read_text()
        assert process.poll() is None
        process.kill()
    wait_until(lambda: gone(onlooker))
