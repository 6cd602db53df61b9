"""One of the ranks that `segtrain doctor` starts: an all-reduce with the others, then a wait for the signal."""

import json
import os
import sys
import time
from pathlib import Path
from typing import cast

from segtrain.config import DeviceName
from segtrain.runtime.launcher import leave
from segtrain.runtime.stop import Stop

WAIT_S = 120.0
NUMBERS = 4 * 2**20  # float32: 16 MiB


def main(folder: str, device: str) -> int:
    """Write ready-<rank>.json after the all-reduce, and signalled-<rank>.json after the signal."""
    stop = Stop()
    stop.listen()
    import torch

    from segtrain.runtime.world import join

    with join(cast(DeviceName, device), threads=1) as world:
        mine = torch.full((NUMBERS,), float(world.rank + 1), device=world.device)
        world.sum(mine)  # the first one makes the connections
        began = time.monotonic()
        total = float(world.sum(mine)[-1])
        report = {"rank": world.rank, "sum": total, "seconds": time.monotonic() - began, "device": str(world.device)}
        _write(Path(folder, f"ready-{world.rank}.json"), report)
        end = time.monotonic() + WAIT_S
        while not stop.reason() and time.monotonic() < end:
            time.sleep(0.02)
        if stop.reason():
            _write(Path(folder, f"signalled-{world.rank}.json"), {"rank": world.rank, "time_s": time.monotonic()})
    return 0


def _write(file: Path, tree: dict[str, object]) -> None:
    aside = file.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(tree), encoding="utf-8")
    aside.replace(file)


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
