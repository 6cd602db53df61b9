"""What a machine lacks is named as what it is, and not blamed on the data or the store."""

import errno
import getpass
import multiprocessing
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from segtrain.config import Config, ModelConfig
from segtrain.doctor import limits, software
from segtrain.errors import LaunchError
from segtrain.runtime import machine, workers
from segtrain.runtime.process import run_command
from segtrain.runtime.world import CPU
from segtrain.training.build import refuse_for_device


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "/dev/shm cannot be used (Read-only file system); mount it"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "/dev/shm cannot be used"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no further process or thread"),
        (RuntimeError("can't start new thread"), "no further process or thread"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (NotImplementedError("system provides too few semaphores"), "too few semaphores"),
    ],
)
def test_why_no_worker_can_be_started_is_named(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ProcessPoolExecutor, "__init__", refuse)
    with pytest.raises(LaunchError) as refused, workers.process_pool(2, "data.workers=1"):
        pass
    assert str(refused.value).startswith("2 worker processes cannot be started: ")
    assert words in str(refused.value)
    assert str(refused.value).endswith(", or set data.workers=1")


def test_workers_that_were_started_do_not_outlive_one_that_could_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or Python would wait for them when it ends."""
    process = multiprocessing.get_context("spawn").Process
    start = process.start
    starts: list[Any] = []

    def once(self: Any) -> None:
        if starts:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        starts.append(self)
        start(self)

    monkeypatch.setattr(process, "start", once)
    with pytest.raises(LaunchError, match="no further process"), workers.process_pool(2, "data.workers=1"):
        pass
    (worker,) = starts
    worker.join(10)
    assert not worker.is_alive()


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "raise the limit with ulimit -n"),
        (RuntimeError("can't start new thread"), "raise the limit with ulimit -u"),
    ],
)
def test_a_limit_of_the_machine_is_one_line_wherever_it_is_met(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(argv: object) -> int:
        raise error

    assert run_command(command, []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_another_error_keeps_its_traceback() -> None:
    def command(argv: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run_command(command, [])


@pytest.mark.law("L12")
def test_preparing_with_too_few_open_files_names_the_limit(tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)); "
        "from segtrain.__main__ import run; sys.exit(run('prepare', sys.argv[1:]))"
    )
    options = ["data.workers=8", "data.phantom.patients=8", "data.phantom.size_px=64", f"data.store={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "too many open files: 16 are allowed" in last
    assert "cannot write the store" not in done.stderr
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_a_compiler_is_looked_for_where_torch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX", "TORCH_INDUCTOR_INSTALL_GXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()

    def lacks(device: str) -> str | None:
        lack = machine.lacks_to_compile(device)
        return lack.thing if lack else None

    assert lacks("cpu") == "g++"
    assert lacks("cuda") == "gcc or clang"
    for name in ("g++", "clang"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert lacks("cpu") is None
    assert lacks("cuda") is None
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert lacks("cpu") == "/nowhere/g++"
    assert lacks("cuda") is None
    (tmp_path / "Python.h").unlink()
    assert lacks("cuda") == "Python.h", "which the generated code includes"


def test_limits_are_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert machine.limit_of(resource.RLIMIT_NPROC) == "any number"
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 200))
    assert machine.limit_of(resource.RLIMIT_NPROC) == "100"


def test_the_doctor_names_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    few, many = 10, 100_000
    assert limits.semaphores(None).state == "ok"
    assert limits.semaphores("Read-only file system").state == "failure"
    assert [limits.open_files(n).state for n in (few, many, resource.RLIM_INFINITY)] == ["warning", "ok", "ok"]
    assert [limits.processes(n, few).state for n in (few, many, resource.RLIM_INFINITY)] == ["warning", "ok", "ok"]


@pytest.mark.law("L12")
def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_INDUCTOR_INSTALL_GXX", raising=False)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    cfg = Config(model=ModelConfig(compile=True), device="cpu")
    with pytest.raises(LaunchError, match=r"model.compile=true.* no /nowhere/g\+\+; .*model.compile=false"):
        refuse_for_device(cfg, CPU)
    refuse_for_device(Config(), CPU)
    assert software.compiler(cfg).state == "failure"


@pytest.mark.parametrize("left_over", [None, "root", "somebody"])
@pytest.mark.parametrize(("user", "name"), [(0, "root"), (54321, "uid-54321")])
def test_libraries_are_told_the_user_of_this_process(
    monkeypatch: pytest.MonkeyPatch, left_over: str | None, user: int, name: str
) -> None:
    """torch's folder in /tmp for compiled code is named for that user, and MONAI fails without a name."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
        if left_over:
            monkeypatch.setenv(variable, left_over)
    monkeypatch.setattr("os.geteuid", lambda: user)
    machine.name_user()
    assert getpass.getuser() == name
