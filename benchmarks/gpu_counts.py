"""What a step of one rank asks of a device, counted on a CPU: operators, and for which of them the host would wait.

python -m benchmarks.gpu_counts                            # the tables of docs/gpu.md
PYTHONPATH=OTHER python benchmarks/gpu_counts.py           # the first of them, of another checkout of this project

An operator is at least one kernel on a GPU; views are none. The other tables (gpu_ways.py) count what this project does
beside the plain way that it replaced.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NO_KERNEL = ("profiler::", "aten::empty", "aten::new_empty", "aten::detach", "aten::lift_fresh", "aten::is_same_size")
COLLECTIVE = "c10d::"
PX = 32  # counts do not depend on it


class Operators(TorchDispatchMode):
    """Records the operators while it is entered, and for which of them a host would wait for a GPU.

    device: count those alone that read or write a tensor there, and what is copied there from the CPU.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.calls: list[tuple[str, Any]] = []  # name and arguments, tensors as their shape, stride and type
        self.collectives: list[str] = []
        self.waits: list[str] = []
        self.copied_bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        arguments = tree_map(_described, (args, kwargs or {}))
        aten = torch.ops.aten
        if waits_for(func, args):
            self.waits.append(str(func))
        result = func(*args, **(kwargs or {}))
        if name.startswith(COLLECTIVE):
            self.collectives.append(name)
        elif not (func.is_view or name.startswith(NO_KERNEL)) and self._is_there(args, kwargs, result):
            self.calls.append((str(func), arguments))
            if func in (aten._to_copy.default, aten.copy_.default):
                self._note_copy(args, result)
        return result

    def _is_there(self, *values: Any) -> bool:
        return self.device is None or any(
            value.device == self.device for value in tree_leaves(values) if isinstance(value, Tensor)
        )

    def _note_copy(self, args: Any, result: Tensor) -> None:
        source = next(tensor for tensor in reversed(args) if isinstance(tensor, Tensor))
        if source.device.type == "cpu" and result.device.type != "cpu":
            self.copied_bytes.append(source.nbytes)


def waits_for(operator: Any, args: Any) -> bool:
    """Whether the host needs a number from the device to go on after this operator."""
    aten = torch.ops.aten
    if operator is aten.index.Tensor:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return operator in (aten._local_scalar_dense.default, aten.nonzero.default)


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), str(value.dtype)
    return repr(value)  # NaN is as good as NaN


def engine_of(cfg: Any, world: Any) -> Any:
    from segtrain.engines.engine import make_engine
    from segtrain.losses.loss import make_loss
    from segtrain.models.make import make_model

    return make_engine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), world)


def of_a_step(engine: Any, samples: int) -> Operators:
    """Those of the third step, whose optimiser has its state by then."""
    image = torch.randn(samples, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    mask = (image[:, :1] > 1).float()
    for step in range(2):
        engine.step(image, mask, 1e-4, 0.5, step)
    counted = Operators()
    with counted:
        engine.step(image, mask, 1e-4, 0.5, 2)
    return counted


def rows() -> Iterator[tuple[str, Operators]]:
    from segtrain.config import Config, ModelConfig, OptimConfig, TrainConfig
    from segtrain.runtime.world import World

    cfg = Config(model=ModelConfig(), train=TrainConfig(global_batch=8))
    yield "Adam", of_a_step(engine_of(cfg, World()), 8)
    recipe = Config(model=ModelConfig(), train=cfg.train, optim=OptimConfig(name="adamw", ema=0.999, clip_norm=1.0))
    yield "AdamW, clipping, the average", of_a_step(engine_of(recipe, World()), 8)


def main() -> None:
    print("| a step of `unet` | operators | waits of the host |\n| --- | --- | --- |")
    for name, counted in rows():
        print(f"| {name} | {len(counted.calls)} | {len(counted.waits)} |", flush=True)
    if __package__:
        from benchmarks.gpu_ways import tables

        for table in tables():
            print(f"\n{table}", flush=True)


if __name__ == "__main__":
    main()
