"""Start real trainings, rank by rank, in processes that can be killed at any moment; compare what they leave behind."""

import contextlib
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from ranks import FORKSERVER, free_port
from safetensors.torch import load_file

from segtrain.config import Config, to_yaml

TIMEOUT_S = 150.0
HELD_AFTER = 9  # steps; `fragile` has more in an epoch, saves at nearly every one and writes losses down at the seventh


class Job:
    """All ranks of one start of a run, in `directory`."""

    def __init__(
        self, directory: Path, cfg: Config, ranks: int, *extra: str, largest_file: int | None = None, port: int = 0
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "given.yaml").write_text(to_yaml(cfg))
        self.port = port or free_port()
        argv = ["--config", "given.yaml", *extra]
        self.directory = directory
        self.processes = [
            FORKSERVER.Process(target=self.rank_of(), args=(directory, argv, rank, ranks, self.port, largest_file))
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def rank_of(self) -> Callable[..., None]:
        """What a process of it does."""
        return train_rank

    def kill(self, *ranks: int, number: int = signal.SIGKILL) -> None:
        for rank in ranks:
            pid = self.processes[rank].pid
            if pid is not None and self.processes[rank].is_alive():
                with contextlib.suppress(ProcessLookupError):  # it may end at this moment
                    os.kill(pid, number)

    def give_up(self, after_s: float) -> None:
        """Kill what is still there after the time."""
        deadline = time.monotonic() + after_s
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        self.kill(*range(len(self.processes)))

    def wait(self, timeout_s: float = TIMEOUT_S) -> list[int | None]:
        """The exit codes of all ranks. A rank that is still there after the time is killed and the test fails."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.kill(*hung)
        for process in self.processes:
            process.join()
        assert not hung, f"ranks {hung} still ran after {timeout_s} s:\n{self.output()}"
        return [process.exitcode for process in self.processes]

    def output(self) -> str:
        return "\n".join(file.read_text()[-3000:] for file in sorted(self.directory.glob("rank-*.log")))


class HeldJob(Job):
    """Its ranks stand still after a step in the middle of their training, until a signal is sent to one of them.

    So that what they are sent comes there, however slow this machine is.
    """

    def rank_of(self) -> Callable[..., None]:
        return train_held_rank

    def wait_until_held(self, timeout_s: float = TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not all(state(process.pid) == "T" for process in self.processes):
            if time.monotonic() > deadline or not all(process.is_alive() for process in self.processes):
                self.kill(*range(len(self.processes)))  # else this process would wait for them at its end
                raise AssertionError(f"they do not stand still:\n{self.output()}")
            time.sleep(0.005)

    def kill(self, *ranks: int, number: int = signal.SIGKILL) -> None:
        super().kill(*ranks, number=number)
        super().kill(*range(len(self.processes)), number=signal.SIGCONT)


def gone(pid: int | str) -> bool:
    """Whether a process has ended, even where nobody collects what is left of it (a container without an init)."""
    return state(pid) in "ZX"


def state(pid: int | str | None) -> str:
    """The letter of the kernel for what a process does; X: it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def train_rank(directory: Path, argv: list[str], rank: int, ranks: int, port: int, largest_file: int | None) -> None:
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.chdir(directory)
    descriptor = os.open(f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    from segtrain.train import main

    sys.exit(main(argv))


def train_held_rank(*arguments: Any) -> None:
    """A rank that stands still after `HELD_AFTER` steps, once a checkpoint is there."""
    from segtrain.training.watch import Watch

    progress = Watch.progress

    def progress_and_stand(watch: Watch, step: int, doing: str) -> None:
        progress(watch, step, doing)
        if (step, doing) == (HELD_AFTER - 2, "training"):
            time.sleep(0.1)  # so that a save is due
        if (step, doing) == (HELD_AFTER, "training"):
            while not list(Path("runs").glob("*/checkpoints/LATEST")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGSTOP)

    setattr(Watch, "progress", progress_and_stand)  # noqa: B010
    train_rank(*arguments)


def state_of(run: Path) -> dict[str, Any]:
    """All that must not tell a broken run from an unbroken one."""
    last = run / "checkpoints" / (run / "checkpoints" / "LATEST").read_text().strip()
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ("time", "images_per_s", "memory_gib", "resources")
    told = [{k: v for k, v in e.items() if k not in measured} for e in events]
    outcome = json.loads((run / "outcome.json").read_text())
    return {
        "model": load_file(last / "model.safetensors"),
        "optimizer": load_file(last / "optimizer.safetensors"),
        "events": told,
        "tables": {file.name: file.read_text() for file in sorted((run / "validation").glob("*.csv"))},
        "pictures": {file.name: file.read_bytes() for file in sorted((run / "validation").glob("*.png"))},
        "outcome": outcome,
        "best": (run / "checkpoints" / "BEST").read_text(),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bitwise."""
    for part in ("model", "optimizer"):
        assert one[part].keys() == other[part].keys()
        for name, tensor in one[part].items():
            assert torch.equal(tensor, other[part][name]), name
    for part in ("events", "tables", "pictures", "outcome", "best"):
        assert one[part] == other[part], part


def run_to_end(directory: Path, cfg: Config, ranks: int) -> Path:
    """An unbroken run; its directory."""
    job = Job(directory, cfg, ranks)
    assert job.wait() == [0] * ranks, job.output()
    return directory / "runs" / cfg.name


def delays(seed: int, spread_s: float) -> Iterator[float]:
    """Seeded seconds until the kill: from the first moment on, later and later so that every run ends."""
    rng = random.Random(seed)
    for attempt in itertools.count():
        yield rng.uniform(0.0, 3.0 + spread_s * attempt)
