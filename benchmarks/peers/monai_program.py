"""A plain MONAI loop as its tutorials write it: CacheDataset, DataLoader, DiceLoss, DiceMetric.

python -m benchmarks.peers.monai_program WORK.json
"""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.nets import BasicUNet
from monai.networks.nets.basic_unet import UpCat
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandAffined,
    RandFlipd,
    Resized,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism

from benchmarks.peers.work import Work, mark, mark_flops, mark_versions

KEYS = ("image", "label")


def slices(raw: Path, names: list[str]) -> list[dict[str, Any]]:
    """Files of each slice but a patient's first and last, as the reference leaves them out."""
    items = []
    for name in names:
        masks = sorted((raw / name).glob("*_mask.tif"), key=lambda file: int(file.stem.split("_")[-2]))
        items += [
            {"image": str(mask.with_name(mask.name.replace("_mask", ""))), "label": str(mask), "patient": name}
            for mask in masks[1:-1]
        ]
    return items


def datasets(work: Work) -> tuple[CacheDataset, CacheDataset]:
    fixed = [
        LoadImaged(KEYS, reader="PILReader"),
        EnsureChannelFirstd(KEYS),
        ScaleIntensityRanged("label", 0, 255, 0, 1),
        Resized(KEYS, (work.size_px, work.size_px), mode=("bilinear", "nearest")),
        NormalizeIntensityd("image", channel_wise=True),
    ]
    random = [
        RandAffined(
            KEYS, prob=1, rotate_range=np.pi / 12, scale_range=0.05, mode=("bilinear", "nearest"), padding_mode="zeros"
        ),
        RandFlipd(KEYS, prob=0.5, spatial_axis=0),
    ]
    raw = Path(work.raw)
    train = CacheDataset(slices(raw, work.train), Compose([*fixed, *random]), num_workers=work.loaders)
    return train, CacheDataset(slices(raw, work.validation), Compose(fixed), num_workers=work.loaders)


def make_network(features: int) -> torch.nn.Module:
    """MONAI's BasicUNet with the reference's widths, batch norm and ReLU.

    Its last stage would keep twice as many channels; with `halves` it is as wide as the reference's, so that the
    operations are equal.
    """
    norm = ("batch", {"affine": True})
    widths = tuple(features * factor for factor in (1, 2, 4, 8, 16, 1))
    network = BasicUNet(2, 3, 1, widths, act=("relu", {"inplace": True}), norm=norm, bias=False)
    network.upcat_1 = UpCat(2, widths[1], widths[0], widths[0], ("relu", {"inplace": True}), norm, False, 0.0)
    return network


def evaluate(network: torch.nn.Module, loader: DataLoader) -> float:
    """Mean DSC of the patients' volumes."""
    network.eval()
    predicted: dict[str, list[torch.Tensor]] = {}
    true: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in loader:
            binary = (torch.sigmoid(network(batch["image"])) > 0.5).float()
            for patient, one, truth in zip(batch["patient"], binary, batch["label"], strict=True):
                predicted.setdefault(patient, []).append(one)
                true.setdefault(patient, []).append(truth)
    metric = DiceMetric(include_background=True, reduction="mean")
    for patient, parts in predicted.items():
        metric(torch.stack(parts, dim=1)[None], torch.stack(true[patient], dim=1)[None])
    return float(metric.aggregate().item())  # type: ignore[union-attr]


def main() -> None:
    work = Work.read(sys.argv[1])
    mark_versions("torch", "monai", "numpy")
    set_determinism(42)
    train, validation = datasets(work)
    mark("prepared")
    loader = DataLoader(train, batch_size=work.batch, shuffle=True, drop_last=True, num_workers=work.loaders)
    scored = DataLoader(validation, batch_size=work.batch, num_workers=work.loaders)
    network = make_network(work.features)
    mark_flops(network, work.size_px)
    loss_function = DiceLoss(sigmoid=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=work.lr)
    images = 0
    for _ in range(work.epochs):
        mark("resumed")
        network.train()
        for batch in islice(loader, work.steps):
            optimizer.zero_grad()
            loss = loss_function(network(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
            loss.item()
            if not images:
                mark("first_step")
            images += len(batch["image"])
        mark("trained", images=images)
        mark("evaluated", dsc=evaluate(network, scored))


if __name__ == "__main__":
    main()
