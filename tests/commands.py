"""Call `segtrain.train` as a user does, and read what a run told."""

import json
import os
import subprocess
import sys
from pathlib import Path

from segtrain.config import Config, to_yaml

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def run(
    directory: Path, cfg: Config, *extra: str, ranks: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`segtrain.train` with `cfg` in `directory`; alone, or under torchrun."""
    file = directory / "given.yaml"
    file.write_text(to_yaml(cfg))
    start = [*TORCHRUN, f"--nproc_per_node={ranks}"] if ranks else [sys.executable]
    command = [*start, "-m", "segtrain.train", "--config", str(file), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=200, env=environment, check=False
    )


def events(run_directory: Path, kind: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]
