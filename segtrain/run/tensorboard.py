"""The curves of a run in TensorBoard, derived from its events."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import numpy as np
from PIL import Image

from segtrain.run.events import Event, TrainEvent
from segtrain.run.writer import Run
from segtrain.runtime import files


class Curves:
    """The TensorBoard log of a run."""

    SCALARS = ("loss", "lr", "images_per_s", "memory_gib", "val_loss", "val_dsc")
    PICTURE = "validation (prediction red, truth green)"

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only rank 0 needs it

        self.run = run
        self.writer = SummaryWriter(str(run.tensorboard))
        files.share_all(run.tensorboard)

    @classmethod
    def redrawn(cls, run: Run, events: Sequence[Event]) -> Self:
        """A new log of these events in place of the old one, so that nothing overlaps after a resume."""
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        curves = cls(run)
        for event in events:
            curves.show(event)
        return curves

    def show(self, event: Event) -> None:
        """Add the numbers of an event, and the picture of an evaluation."""
        for name in self.SCALARS:
            if hasattr(event, name):
                self.writer.add_scalar(name, getattr(event, name), event.step, walltime=event.time)
        if isinstance(event, TrainEvent):
            for name, value in event.resources.items():
                self.writer.add_scalar(f"resources/{name}", value, event.step, walltime=event.time)
            return
        with suppress(OSError):  # there is none, or a crash of the machine truncated it
            pixels = np.asarray(Image.open(self.run.validation_picture(event.epoch)))
            self.writer.add_image(self.PICTURE, pixels, event.step, walltime=event.time, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the log."""
        self.writer.close()
