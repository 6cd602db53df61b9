"""What a step of one rank asks of a device, counted on a CPU: operators, and for which of them the host would wait.

python -m benchmarks.gpu_counts                            # a table, as in docs/gpu.md
PYTHONPATH=OTHER python benchmarks/gpu_counts.py           # of another checkout of this project

An operator is at least one kernel on a GPU; views are none.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NO_KERNEL = ("profiler::", "aten::empty", "aten::new_empty", "aten::detach", "aten::lift_fresh", "aten::is_same_size")
PX = 32  # counts do not depend on it


class Operators(TorchDispatchMode):
    """Records the operators while it is entered, and for which of them a host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, Any]] = []  # name and arguments, tensors as their shape, stride and type
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        arguments = tree_map(_described, (args, kwargs or {}))
        if not (func.is_view or name.startswith(NO_KERNEL)):
            self.calls.append((str(func), arguments))
        aten = torch.ops.aten
        by_mask = func is aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or func in (aten._local_scalar_dense.default, aten.nonzero.default):
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), str(value.dtype)
    return repr(value)  # NaN is as good as NaN


def of_a_step(cfg: Any) -> Operators:
    """Those of the third step of an engine, whose optimiser has its state by then."""
    from segtrain.engines.engine import make_engine
    from segtrain.losses.loss import make_loss
    from segtrain.models.make import make_model
    from segtrain.runtime.world import World

    engine = make_engine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), World())
    image = torch.randn(cfg.train.global_batch, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    mask = (image[:, :1] > 1).float()
    for step in range(2):
        engine.step(image, mask, 1e-4, 0.5, step)
    counted = Operators()
    with counted:
        engine.step(image, mask, 1e-4, 0.5, 2)
    return counted


def rows() -> Iterator[tuple[str, Operators]]:
    from segtrain.config import Config, ModelConfig, OptimConfig, TrainConfig

    cfg = Config(model=ModelConfig(), train=TrainConfig(global_batch=8))
    yield "Adam", of_a_step(cfg)
    recipe = Config(model=ModelConfig(), train=cfg.train, optim=OptimConfig(name="adamw", ema=0.999, clip_norm=1.0))
    yield "AdamW, clipping, the average", of_a_step(recipe)


def main() -> None:
    print("| a step of `unet` | operators | waits of the host |\n| --- | --- | --- |")
    for name, counted in rows():
        print(f"| {name} | {len(counted.calls)} | {len(counted.waits)} |", flush=True)


if __name__ == "__main__":
    main()
