"""A rank of `benchmarks.gpu`'s step `ranks`: a few steps with batch norm, all ranks on one GPU, over gloo."""

import json
import signal
import sys
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from segtrain.config import DeviceName, Precision
from segtrain.runtime import launcher, world

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from engine_runs import config, train


def main(precision: Precision, device: DeviceName) -> None:
    initialise = dist.init_process_group

    def over_gloo(backend: str | None = None, *others: Any, device_id: Any = None, **named: Any) -> None:
        initialise("gloo", *others, **named)  # NCCL refuses two ranks on one GPU

    dist.init_process_group = over_gloo
    if device == "cuda":
        world.device_of = lambda *_: torch.device("cuda", 0)
    with world.join(device, 1) as ranks:
        losses, *_ = train(ranks, config(None, precision=precision), True)
        if ranks.is_main:
            print(json.dumps(losses), flush=True)


if __name__ == "__main__":
    launcher.follow_torchrun(signal.SIGKILL)  # a rank has a session of its own, which the end of a step does not reach
    main(cast(Precision, sys.argv[1]), cast(DeviceName, sys.argv[2]))
    launcher.leave(0)
