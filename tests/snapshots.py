"""Small checkpoints to save, damage and compare."""

import torch

from segtrain.run import Run
from segtrain.run.checkpoint import Saver, Snapshot, newest, read

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    model = {"conv.weight": torch.randn(8, 3, 3, 3, generator=generator), "norm.count": torch.tensor(step)}
    moments = {
        f"conv.weight/{name}": torch.randn(8, 3, 3, 3, generator=generator) for name in ("exp_avg", "exp_avg_sq")
    }
    return Snapshot(model, moments, {"step": step, "losses": [0.1 + step, 1 / 3], "engine": {}})


def same(one: Snapshot, other: Snapshot) -> bool:
    tensors = [(one.model, other.model), (one.optimizer, other.optimizer)]
    return one.state == other.state and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in tensors
    )


def save(run: Run, *steps: int, keep: int = 10) -> None:
    saver = Saver(run, keep)
    for step in steps:
        saver.save(step, snapshot(step))
    saver.close()


def newest_of(run: Run) -> Snapshot | None:
    name = newest(run)
    return None if name is None else read(run.checkpoints / name)
