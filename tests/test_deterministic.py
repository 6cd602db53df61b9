"""`deterministic`: torch is asked for the same bits each time, which on a CPU it gives anyway. Not run on a GPU yet."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainings import assert_same, state_of

from segtrain.config import Config, OptimConfig, TrainConfig, to_yaml
from segtrain.data.store import Store
from segtrain.errors import LaunchError
from segtrain.run import Run
from segtrain.runtime.world import CPU
from segtrain.training.build import refuse_for_device

# The command, which says what holds when the ranks join, before CUDA could start, and at each step.
WATCHED = """
import json, os, sys, torch
from segtrain import train
from segtrain.engines.ddp import DdpEngine
step, seen = DdpEngine.step, []
def look():
    return [torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")]
def watched(*arguments, **options):
    seen.append(look())
    return step(*arguments, **options)
def joining(threads):
    seen.append(look())
torch.set_num_threads = joining
DdpEngine.step = watched
code = train.main(sys.argv[1:])
print(json.dumps(seen))
sys.exit(code)
"""


def watched(directory: Path, cfg: Config) -> list[list[object]]:
    (directory / "given.yaml").write_text(to_yaml(cfg))
    without = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "--config", "given.yaml"], cwd=directory, check=False, timeout=120,
        capture_output=True, text=True, env={**without, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: list[list[object]] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.law("L6")
def test_a_deterministic_training_on_the_cpu_is_the_same_training(
    tiny: Config, tiny_store: Store, trained_run: Run, tmp_path: Path
) -> None:
    cfg = replace(tiny, name="trained", train=TrainConfig(epochs=3, global_batch=4), optim=OptimConfig(lr=3e-3))
    seen = watched(tmp_path, replace(cfg, deterministic=True))
    assert len(seen) > 3
    assert all(one == [True, ":4096:8"] for one in seen)
    assert_same(state_of(tmp_path / "runs" / "trained"), state_of(trained_run.root))


def test_nothing_is_asked_of_torch_otherwise(tiny: Config, tiny_store: Store, tmp_path: Path) -> None:
    seen = watched(tmp_path, replace(tiny, evaluate=replace(tiny.evaluate, pictures=0)))
    assert len(seen) > 3
    assert all(one == [False, None] for one in seen)


def test_what_only_scores_imports_no_compiler() -> None:
    """As torch does even to switch off what is off: 1.7 s of each start."""
    code = "import sys; from segtrain.runtime.world import join\n"
    code += "with join('cpu', 1): sys.exit('torch._inductor' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.law("L12")
def test_a_loss_that_cannot_be_deterministic_on_cuda_is_refused(tiny: Config) -> None:
    gpu = torch.device("cuda", 0)
    for loss in ("lovasz", {"dice": 1.0, "lovasz": 0.5}):
        cfg = replace(tiny, loss=loss, deterministic=True)
        with pytest.raises(LaunchError, match=r"loss=lovasz with deterministic=true: .*; use another loss"):
            refuse_for_device(cfg, gpu)
        refuse_for_device(cfg, CPU)
        refuse_for_device(replace(cfg, deterministic=False), gpu)
