"""The curves of a run in TensorBoard, derived from its events, and its config as text and as hyperparameters."""

import errno
import io
import json
import os
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from PIL import Image

from segtrain.config import Config, flatten, to_yaml
from segtrain.config.comparison import may_differ
from segtrain.run.events import Event, TrainEvent
from segtrain.run.writer import Run
from segtrain.runtime import files
from segtrain.runtime.outbox import Appended
from segtrain.runtime.visible import in_one_line

# Of the hyperparameters, those that are there at their defaults too; and keys that only name things.
USUAL = (
    "seed", "data.source", "data.image_size", "data.fold", "data.augment", "model.name", "model.features", "loss",
    "optim.name", "optim.lr", "optim.schedule", "train.epochs", "train.global_batch", "precision",
)  # fmt: skip
NO_SETTINGS = ("name", "code.")


class Curves:
    """The TensorBoard log of a run. Not SummaryWriter: its thread dies with the first write that fails."""

    SCALARS = ("loss", "lr", "images_per_s", "memory_gib", "val_loss", "val_dsc")
    METRICS = ("val_dsc", "val_loss", "loss")  # columns beside the hyperparameters
    PICTURE = "validation (prediction red, truth green)"
    PICTURE_OF_REGIONS = "validation (prediction left, truth right)"

    def __init__(self, run: Run, cfg: Config) -> None:
        from torch.utils.tensorboard import summary  # slow to import, and only rank 0 needs it

        self.run = run
        self.cfg = cfg
        self._summary = summary
        self._begin()

    @classmethod
    def redrawn(cls, run: Run, cfg: Config, events: Sequence[Event]) -> Self:
        """A new log of these events in place of the old one, so that nothing overlaps after a resume."""
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        curves = cls(run, cfg)
        curves._append(b"".join(map(curves.records, events)))
        return curves

    def show(self, event: Event) -> None:
        """Add the numbers of an event, and the picture of an evaluation. After an OSError it may be called again."""
        self._append(self.records(event))

    def records(self, event: Event) -> bytes:
        """An event as TensorBoard's records."""
        values = {name: getattr(event, name) for name in self.SCALARS if hasattr(event, name)}
        if isinstance(event, TrainEvent):
            values |= {f"resources/{name}": value for name, value in event.resources.items()}
        else:
            values |= {f"val_dsc/{name}": numbers["dsc"] for name, numbers in event.regions.items()}
        summaries = [self._summary.scalar(name, value) for name, value in values.items()]
        if not isinstance(event, TrainEvent) and (pixels := self._picture(event.epoch)) is not None:
            title = self.PICTURE_OF_REGIONS if event.regions else self.PICTURE
            summaries.append(self._summary.image(title, pixels, dataformats="HWC"))
        return b"".join(_record(wall_time=event.time, step=event.step, summary=summary) for summary in summaries)

    def _picture(self, epoch: int) -> Any:
        """The pixels of an evaluation's picture; None where there is none, or a crash of the machine truncated it."""
        try:
            return np.asarray(Image.open(self.run.validation_picture(epoch)))
        except OSError as error:
            if error.errno in (None, errno.ENOENT):
                return None
            raise

    def _begin(self) -> None:
        """Begin a file, under a name that TensorBoard knows."""
        self.run.tensorboard.mkdir(exist_ok=True)
        files.share(self.run.tensorboard)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = Appended(self.run.tensorboard / name)
        self._file.append(_record(wall_time=time.time(), file_version="brain.Event:2") + self._settings())

    def _settings(self) -> bytes:
        """The config as text, and as hyperparameters with the metrics that they are compared by."""
        as_code = "".join(f"    {line}\n" for line in to_yaml(self.cfg).splitlines())  # of Markdown
        experiment, session, _ = self._summary.hparams(hyperparameters(self.cfg), dict.fromkeys(self.METRICS, 0.0))
        summaries = (self._summary.text("config", as_code), experiment, session)
        return b"".join(_record(wall_time=time.time(), step=0, summary=summary) for summary in summaries)

    def _append(self, records: bytes) -> None:
        try:
            self._file.append(records)
        except FileNotFoundError:  # somebody removed the folder
            self._begin()
            self._file.append(records)


def hyperparameters(cfg: Config) -> dict[str, str | float]:
    """The settings to compare runs by: the usual ones, and whatever decides about a result and is not the default."""
    values, usual = (dict(flatten(asdict(each))) for each in (cfg, Config()))
    deciding = [
        key
        for key, value in values.items()
        if key in USUAL or (value != usual.get(key) and not may_differ(key) and not key.startswith(NO_SETTINGS))
    ]
    return {key: _in_a_cell(values[key]) for key in deciding}


def _in_a_cell(value: Any) -> str | float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else in_one_line(json.dumps(value, ensure_ascii=False).strip('"'))


def _record(**fields: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event as Message
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream = io.BytesIO()
    RecordWriter(stream).write(Message(**fields).SerializeToString())
    return stream.getvalue()
