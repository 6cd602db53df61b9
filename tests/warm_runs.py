"""Queues whose trainings are forked from a process that knows torch, without torchrun: all else of a start is real."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ranks import FORKSERVER

from jobs import local, node, rank
from jobs.queue import preflight
from jobs.rendezvous import Endpoint
from jobs.submission import Submission
from segtrain.runtime.launcher import LOCAL_JOB, LOCAL_RESTART
from segtrain.runtime.stop import SIGNALS


class Started:
    """A forked process, with what a queue asks of a subprocess.Popen."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.process = FORKSERVER.Process(target=function, args=arguments)
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def _go_to(directory: Path, environment: Mapping[str, str], output: Path | None = None) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    if output:
        for descriptor in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), descriptor)


def _run(directory: Path, environment: Mapping[str, str], output: Path | None, root: Path, name: str) -> None:
    """As jobs.local has it started, but for torchrun and its one rank: that is this process."""
    _go_to(directory, environment, output)

    def in_this_process(self: node.Start, endpoint: Endpoint, attempt: int) -> int:
        os.environ[rank.START_FOLDER] = str(self.rendezvous.folder)
        command = self._command(endpoint)
        return rank.main(command[command.index("jobs.rank") + 1 :])

    node.Start._torchrun = in_this_process  # type: ignore[method-assign]
    node.train(str(root), name)


def _look_over(directory: Path, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    _go_to(directory, environment)
    from segtrain.training.preflight import main

    folder, ranks, out, _ = arguments
    sys.exit(main(folder, ranks, out, str(os.getppid())))


@pytest.fixture
def warm_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The queues of this process start their trainings so, and look them over so before."""

    def start(
        made: Submission, name: str, start_of: tuple[str, int], environment: Mapping[str, str], **options: Any
    ) -> Started:
        assert made.processes(name) == 1, "there is no torchrun"
        job, restart = start_of
        whole = {**os.environ, LOCAL_JOB: job, LOCAL_RESTART: str(restart), **environment}
        output = Path(f"/proc/self/fd/{options['stdout'].fileno()}").readlink() if "stdout" in options else None
        return Started(_run, Path.cwd(), whole, output, made.root, name)

    def look_over(command: Sequence[str], stop: object) -> int:
        code = Started(_look_over, Path.cwd(), dict(os.environ), command[3:]).wait()
        assert code is not None
        return code

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(preflight, "_run", look_over)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
