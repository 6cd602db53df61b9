"""The curves of a run in TensorBoard, derived from its events."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

from segtrain.run.writer import Run


class Curves:
    """The TensorBoard log of a run: made anew from the run's events at each start, so that nothing overlaps."""

    SCALARS = ("loss", "lr", "images_per_s", "memory_gib", "val_loss", "val_dsc")
    PICTURE = "validation (prediction red, truth green)"

    def __init__(self, run: Run, events: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed on rank 0 alone

        self.run = run
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        self.writer = SummaryWriter(str(run.tensorboard))
        for event in events:
            self.show(event)

    def show(self, event: Mapping[str, Any]) -> None:
        """Add what an event holds, with the picture of an evaluation."""
        for name in self.SCALARS:
            if name in event:
                self.writer.add_scalar(name, event[name], event["step"], walltime=event["time"])
        for name, value in event.get("resources", {}).items():
            self.writer.add_scalar(f"resources/{name}", value, event["step"], walltime=event["time"])
        if "epoch" in event:
            with suppress(OSError):  # none, or cut by a crash of the machine
                pixels = np.asarray(Image.open(self.run.validation_picture(event["epoch"])))
                self.writer.add_image(self.PICTURE, pixels, event["step"], walltime=event["time"], dataformats="HWC")
            self.writer.flush()

    def close(self) -> None:
        """Write out what is left."""
        self.writer.close()
