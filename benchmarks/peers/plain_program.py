"""The reference's way as benchmarks/reference.py writes it, for where its own train.py cannot be had.

python -m benchmarks.peers.plain_program WORK.json
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import reference
from benchmarks.peers.work import Work, mark, mark_flops, mark_versions

Volume = tuple[Any, Any]


def samples(volumes: list[Volume], rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as the reference draws it: a patient, a slice by its lesion's size, augmented."""
    images, masks = [], []
    for _ in range(count):
        image, mask = volumes[rng.integers(len(volumes))]
        area = mask.sum(axis=(1, 2)) + max(mask.sum(), 1) * 0.1 / len(mask)
        place = rng.choice(len(mask), p=area / area.sum())
        scale, angle, flip = rng.uniform(0.95, 1.05), rng.uniform(-15, 15), bool(rng.random() < 0.5)
        one, truth = reference.augment(image[place], mask[place].astype(float), scale, angle, flip)
        images.append(one.transpose(2, 0, 1).astype(np.float32))
        masks.append(truth[None].astype(np.float32))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def main() -> None:
    work = Work.read(sys.argv[1])
    mark_versions("torch", "numpy", "scikit-image", "medpy")
    train, validation = (
        [reference.prepare(Path(work.raw) / name, work.size_px) for name in names]
        for names in (work.train, work.validation)
    )
    mark("prepared")
    rng = np.random.default_rng(42)
    training = reference.Training(work.features)
    mark_flops(training.network, work.size_px)
    images = 0
    for _ in range(work.epochs):
        mark("resumed")
        for _ in range(work.steps):
            training.step(*samples(train, rng, work.batch))
            if not images:
                mark("first_step")
            images += work.batch
        mark("trained", images=images)
        scores = [reference.evaluate(training.network, *volume, work.batch)[1] for volume in validation]
        mark("evaluated", dsc=float(np.mean(scores)))


if __name__ == "__main__":
    main()
