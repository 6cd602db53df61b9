"""Run the reference's own train.py, patched, and mark when it does what.

python -m benchmarks.peers.reference_program WORK.json PROGRAM_FOLDER SCRATCH_FOLDER
"""

import importlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.tensorboard import SummaryWriter

from benchmarks.peers.work import Work, mark, mark_flops, mark_versions


class Logger:
    """The reference's logger of scalars; it is asked for no images (--vis-images 0)."""

    def __init__(self, log_dir: str) -> None:
        self.writer = SummaryWriter(log_dir)

    def scalar_summary(self, tag: str, value: float, step: int) -> None:
        self.writer.add_scalar(tag, value, step)
        self.writer.flush()
        if tag == "val_dsc":
            mark("evaluated", dsc=float(value))


class Compose:
    """torchvision's."""

    def __init__(self, transforms: list[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, sample: Any) -> Any:
        for transform in self.transforms:
            sample = transform(sample)
        return sample


class Marks:
    """Marks by what train.py calls: the two data sets, the network's train and eval, the optimiser's step."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.datasets = 0
        self.steps = 0

    def dataset_made(self) -> None:
        self.datasets += 1
        if self.datasets == 2:
            mark("prepared")

    def stepped(self, *_: object) -> None:
        self.steps += 1
        if self.steps == 1:
            mark("first_step")

    def watch(self, network: torch.nn.Module) -> None:
        mark_flops(network, self.work.size_px)
        train = network.train

        def marked(mode: bool = True) -> torch.nn.Module:
            if mode:
                mark("resumed")
            else:
                mark("trained", images=self.steps * self.work.batch)
            return train(mode)

        network.train = marked  # type: ignore[method-assign]


def main() -> None:
    work, program, scratch = Work.read(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    mark_versions("torch", "numpy", "scikit-image", "medpy")
    sys.path.insert(0, str(program))
    logger, transforms = ModuleType("logger"), ModuleType("torchvision.transforms")
    logger.Logger = Logger  # type: ignore[attr-defined]
    transforms.Compose = Compose  # type: ignore[attr-defined]
    sys.modules |= {"logger": logger, "torchvision": ModuleType("torchvision"), "torchvision.transforms": transforms}
    marks = Marks(work)
    unet: Any = importlib.import_module("unet")
    dataset: Any = importlib.import_module("dataset")
    make, read = unet.UNet.__init__, dataset.BrainSegmentationDataset.__init__

    def read_marked(self: Any, *arguments: Any, **named: Any) -> None:
        read(self, *arguments, **named)
        marks.dataset_made()

    def make_watched(self: Any, **channels: int) -> None:
        make(self, **channels, init_features=work.features)
        marks.watch(self)

    dataset.BrainSegmentationDataset.__init__ = read_marked
    unet.UNet.__init__ = make_watched
    register_optimizer_step_post_hook(marks.stepped)
    sys.argv = [
        "train.py",
        "--images",
        work.raw,
        "--device",
        "cpu",  # as all others
        "--image-size",
        str(work.size_px),
        "--batch-size",
        str(work.batch),
        "--epochs",
        str(work.epochs),
        "--lr",
        str(work.lr),
        "--workers",
        str(work.loaders),
        "--vis-images",
        "0",
        "--weights",
        str(scratch / "weights"),
        "--logs",
        str(scratch / "logs"),
    ]
    runpy.run_path(str(program / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
