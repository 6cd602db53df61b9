"""The work that all peers do, and the marks of time that they leave. Peers import it: it needs the library alone."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MARKS = "PEERS_MARKS"  # environment variable: the file that a peer's marks go to


@dataclass(frozen=True)
class Work:
    """The same for all peers: patients by name, sizes, and the steps of an epoch."""

    raw: str  # folder of patients in the LGG layout
    train: list[str]
    validation: list[str]
    validation_slices: int
    size_px: int
    batch: int
    epochs: int
    features: int
    steps: int  # an epoch
    lr: float = 1e-3
    loaders: int = 4  # processes that load data: the reference's default and what MONAI's tutorials write

    @property
    def patients(self) -> list[str]:
        return sorted([*self.train, *self.validation])

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(file: str) -> "Work":
        return Work(**json.loads(Path(file).read_text()))


def mark(phase: str, **facts: Any) -> None:
    """Append a line: phase, monotonic clock in seconds, facts.

    prepared: the data lie ready. resumed: the training part of an epoch begins. first_step: the first step has ended.
    trained: the training part of an epoch has ended; images since the start. scoring: an evaluation begins, where it
    does not follow `trained`. evaluated: it has ended; mean DSC. network: FLOPs of an image forward. versions.
    """
    with Path(os.environ[MARKS]).open("a") as file:
        file.write(json.dumps({"phase": phase, "at": time.monotonic(), **facts}) + "\n")


def mark_versions(*packages: str) -> None:
    from importlib.metadata import version

    mark("versions", packages={package: version(package) for package in packages})


def mark_flops(network: Any, size_px: int) -> None:
    """Count the operations of one image of three channels in a forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size_px, size_px))
    network.train(training)
    mark("network", gflop=counter.get_total_flops() / 1e9)
