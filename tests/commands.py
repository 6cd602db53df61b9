"""Call `segtrain.train` as a user does, and read what a run told."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ranks import FORKSERVER

from segtrain.config import Config, to_yaml

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
TIMEOUT_S = 200


def run(
    directory: Path, cfg: Config, *extra: str, ranks: int = 0, env: dict[str, str] | None = None, warm: bool = True
) -> subprocess.CompletedProcess[str]:
    """`segtrain.train` with `cfg` in `directory`; under torchrun, or alone.

    Alone and `warm` it is forked from a process that knows torch, which saves seconds; else it is a command of its own.
    """
    file = directory / "given.yaml"
    file.write_text(to_yaml(cfg))
    arguments = ["--config", str(file), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    if warm and not ranks:
        return _fork(directory, arguments, environment)
    start = [*TORCHRUN, f"--nproc_per_node={ranks}"] if ranks else [sys.executable]
    command = [*start, "-m", "segtrain.train", *arguments]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
    )


def _fork(directory: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    process = FORKSERVER.Process(target=_train, args=(directory, arguments, environment))
    process.start()
    process.join(TIMEOUT_S)
    hung = process.is_alive()
    process.kill()
    process.join()
    output, errors = ((directory / name).read_text() for name in ("output.txt", "errors.txt"))
    assert not hung, f"no end in {TIMEOUT_S} s:\n{errors}"
    assert process.exitcode is not None
    return subprocess.CompletedProcess(arguments, process.exitcode, output, errors)


def _train(directory: Path, arguments: list[str], environment: dict[str, str]) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in ((1, "output.txt"), (2, "errors.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    from segtrain.train import main

    sys.exit(main(arguments))


def events(run_directory: Path, kind: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]
