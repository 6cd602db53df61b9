"""A store of three regions, four contrasts and ignored voxels, made by hand, and what a rank trains on it."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segtrain.config import IGNORED, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from segtrain.data.augment.batch import to_device
from segtrain.data.building import write_array
from segtrain.data.feed import Feed
from segtrain.data.geometry import Geometry
from segtrain.data.masks import is_lesion
from segtrain.data.order import plan_order
from segtrain.data.store import Store, open_store
from segtrain.data.store_index import INDEX, StoredPatient
from segtrain.engines.schedules import make_schedule
from segtrain.runtime.world import World
from segtrain.training.build import build

CONTRASTS = ("t1", "t1ce", "t2", "flair")
REGIONS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
SLICES, SIZE_PX, PATIENTS = 6, 32, 10
State = dict[str, np.ndarray]
Link = tuple[State, State, str]


def patient(number: int) -> tuple[np.ndarray, np.ndarray]:
    """float16 [s, h, w, 4] and bits of regions [s, h, w]: nested discs, a rim that nobody knows, an unknown slice."""
    rng = np.random.default_rng(number)
    image = rng.standard_normal((SLICES, SIZE_PX, SIZE_PX, len(CONTRASTS))).astype(np.float16)
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX]
    mask = np.zeros(image.shape[:3], np.uint8)
    for z in range(SLICES - number % 2):
        away = np.hypot(y - rng.uniform(10, 22), x - rng.uniform(10, 22))
        mask[z][away < 10] = IGNORED
        for bits, radius in ((0b001, 8), (0b011, 5), (0b111, 3)):
            mask[z][away < radius] = bits
    for region in range(len(REGIONS)):
        image[..., region] += 2 * (mask >> region & 1)
    if number % 3 == 0:
        mask[2] = IGNORED
    return image, mask


def write_store(path: Path, ignores: bool = True) -> Store:
    """The store; without ignored voxels if so wanted."""
    entries: list[dict[str, Any]] = []
    for folder in ("images", "masks"):
        (path / folder).mkdir(parents=True)
    box = (0, SLICES), (0, SIZE_PX), (0, SIZE_PX)
    geometry = Geometry((SLICES, SIZE_PX, SIZE_PX), box, ((0, 0), (0, 0)), SIZE_PX)
    for number in range(PATIENTS):
        image, mask = patient(number)
        if not ignores:
            mask[mask == IGNORED] = 0
        entry = StoredPatient(
            patient=f"P{number:02d}",
            institution="unknown",
            areas=tuple(int(area) for area in is_lesion(mask).sum((1, 2))),
            slice_numbers=tuple(range(1, SLICES + 1)),
            geometry=geometry,
            missing_channels=(),
            unlabelled=tuple(np.flatnonzero((mask == IGNORED).all((1, 2))).tolist()),
        )
        sizes = {
            "images": write_array(path / "images" / f"{entry.patient}.npy", image),
            "masks": write_array(path / "masks" / f"{entry.patient}.npy", mask),
        }
        entries.append({**asdict(entry), "bytes": sizes})
    index = {
        "label": "made by hand", "size_px": SIZE_PX, "contrasts": CONTRASTS, "regions": REGIONS,
        "ignore": [9] if ignores else [], "skipped": {}, "patients": entries,
    }  # fmt: skip
    (path / INDEX).write_text(json.dumps(index))
    return open_store(path)


def config(store: Store, **changes: Any) -> Config:
    """A run on the store, resolved as a run's config is. Group norm, so that L5 holds."""
    data = DataConfig(image_size=SIZE_PX, validation_patients=2, augment="strong", copy_paste=0.5, mixup=0.3)
    base = Config(
        data=store.resolved(data),
        model=ModelConfig(features=4, depth=2, norm="group", deep_supervision=0.5),
        loss={"dice": 1.0, "bce": 0.5, "boundary": 0.1},
        loss_regions={"whole": 1.0, "core": 2.0, "enhancing": 0.5},
        optim=OptimConfig(lr=1e-2, schedule="polynomial", ema=0.5),
        train=TrainConfig(global_batch=8, epochs=2),
    )
    return replace(base, **changes)


def train(world: World, path: Path, cfg: Config, given: Link | None, steps: range) -> tuple[list[float], Link]:
    """Losses of the steps, and what a checkpoint would hold, on rank 0."""
    store = open_store(path)
    split, order = plan_order(cfg, store, world.size)
    _, engine = build(cfg, world, begun=given is not None)
    if given is not None:
        model, moments = ({key: torch.from_numpy(value) for key, value in part.items()} for part in given[:2])
        engine.restore(model, moments, json.loads(given[2]))
    engine.rehearse()
    schedule = make_schedule(cfg.optim, cfg.train.epochs * order.steps_per_epoch, order.steps_per_epoch)
    losses = []
    with Feed(store, split.train, order, cfg.data, world.rank, world.size) as feed:
        for step, batch in enumerate(feed.batches(steps.start, steps.stop), start=steps.start):
            image, mask = to_device(
                batch.image_bhwc, batch.mask_bhw, batch.draws, world.device, batch.mix, store.layout
            )
            losses.append(engine.step(image, mask, schedule(step), step / 20, step).item())
    model, moments, extra = engine.snapshot()
    states = ({key: tensor.numpy() for key, tensor in part.items()} for part in (model, moments))
    return losses, (*states, json.dumps(extra))  # type: ignore[return-value]
