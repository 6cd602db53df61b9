"""Rows prepare and feed: from source files to augmented batches."""

import shutil
import tempfile
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import reference
from benchmarks.harness import Line, Options, Variant, Work, at_least, measure
from segtrain.config import Config, DataConfig, PhantomConfig
from segtrain.data.prepare import ensure_store


def config(options: Options, size_px: int) -> Config:
    """Real patients if --lgg names some, else phantoms. The store is kept between runs of the benchmarks."""
    data = DataConfig(
        source="phantom", store=str(options.folder / "prepared"), image_size=size_px, validation_patients=2,
        phantom=PhantomConfig(patients=14, size_px=max(64, size_px)),
    )  # fmt: skip
    if options.lgg:
        data = replace(data, source="lgg", root=str(options.lgg), validation_patients=10, published="redrawn")
    return Config(data=data)


def folder_of_patients(options: Options, patients: int) -> Path:
    """A folder in the LGG layout: links to real patients, spread over the list, or phantoms written as TIFF.

    They are spread because the institution decides whether a volume needs a resize, the slow part of the plain way.
    """
    source = f"real-{sha256(bytes(options.lgg.resolve())).hexdigest()[:8]}" if options.lgg else "phantom"
    folder = options.folder / f"source-{patients}-{source}"
    if folder.is_dir():
        return folder
    making = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    if options.lgg:
        folders = sorted(p for p in options.lgg.iterdir() if p.is_dir())
        count = min(patients, len(folders))
        for real in (folders[(2 * n + 1) * len(folders) // (2 * count)] for n in range(count)):
            (making / real.name).symlink_to(real.resolve())
    else:
        _write_phantoms(making, patients)
    making.rename(folder)  # one that was interrupted is made again
    return folder


def _write_phantoms(folder: Path, patients: int) -> None:
    from PIL import Image

    from segtrain.data.sources.phantom import phantom_patient

    for index in range(patients):
        name = f"TCGA_XX_{index:04d}_20000101"
        (folder / name).mkdir()
        for k, (image, mask) in enumerate(zip(*phantom_patient(0, index, 256), strict=True), start=1):
            Image.fromarray(image).save(folder / name / f"{name}_{k}.tif")
            Image.fromarray(mask * 255).save(folder / name / f"{name}_{k}_mask.tif")


def _prepare_ours(world: object, root: Path, folder: Path, size_px: int, workers: int) -> Work:
    def work() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            cfg = DataConfig(source="lgg", root=str(root), store=store, image_size=size_px, workers=workers)
            return sum(p.slices for p in ensure_store(cfg).patients.values())

    return work


def _prepare_plainly(world: object, root: Path, folder: Path, size_px: int) -> Work:
    def work() -> int:
        slices = 0
        for patient in sorted(root.iterdir()):
            image, mask = reference.prepare(patient, size_px)
            with tempfile.TemporaryDirectory(dir=folder) as store:
                np.savez(Path(store) / "x.npz", image.astype(np.float16), mask)
            slices += len(mask)
        return slices

    return work


def prepare(options: Options) -> list[Line]:
    """Source folder to store: time per slice on one core, and all real patients on all cores."""
    size = 32 if options.tiny else 256
    root = folder_of_patients(options, 1 if options.tiny else 4)
    timings = measure(
        [
            Variant("ours", _prepare_ours, (root, options.folder, size, 1), threads=1),
            Variant("plain", _prepare_plainly, (root, options.folder, size), threads=1, keep=False),
        ],
        min(options.repeat, 2),
    )
    per_slice = {name: 1000 * t.median_s / t.values[0] for name, t in timings.items()}
    lines = [
        at_least(
            "prepare", f"source to store, {size} px, one core", f"{per_slice['ours']:.1f} ms/slice",
            f"{per_slice['plain']:.0f} ms/slice", per_slice["plain"] / per_slice["ours"], 15,
        )
    ]  # fmt: skip
    if options.lgg:
        patients = len([p for p in options.lgg.iterdir() if p.is_dir()])
        started = time.perf_counter()
        _prepare_ours(None, options.lgg, options.folder, size, workers=2)()
        whole_s = time.perf_counter() - started
        lines.append(
            Line(
                "prepare", f"{patients} real patients, {size} px, two cores", f"{whole_s:.0f} s", "",
                f"{whole_s:.0f} s", "under 60 s", whole_s < 60,
            )
        )  # fmt: skip
    return lines


def _feed_ours(world: Any, cfg: Config, batches: int) -> Work:
    from segtrain.data.augment.batch import to_device
    from segtrain.data.feed import Feed
    from segtrain.data.order import make_order
    from segtrain.data.splits import make_split

    store = ensure_store(cfg.data)
    split = make_split(cfg.data, store)
    feed = Feed(store, split.train, make_order(cfg, store, split), cfg.data, 0, 1)

    def work() -> int:
        for step in range(batches):
            batch = feed.gather(step)
            to_device(batch.image_bhwc, batch.mask_bhw, batch.draws, world.device)
        return batches * cfg.train.global_batch

    return work


def _feed_plainly(world: object, cfg: Config, samples: int) -> Work:
    store = ensure_store(cfg.data)
    image_shwc, mask_shw = store.volume(next(iter(store.patients)))
    image, mask = image_shwc.astype(np.float32), mask_shw.astype(np.float32)

    def work() -> int:
        rng = np.random.default_rng(0)
        for number in range(samples):
            place = number % len(image)
            scale, angle = rng.uniform(0.95, 1.05), rng.uniform(-15, 15)
            reference.augment(image[place], mask[place], scale, angle, bool(rng.random() < 0.5))
        return samples

    return work


def feed(options: Options) -> list[Line]:
    """Gathering and augmenting, each way on one core."""
    cfg = config(options, 32 if options.tiny else 256)
    ensure_store(cfg.data)
    timings = measure(
        [
            Variant("ours", _feed_ours, (cfg, 2 if options.tiny else 20), threads=1),
            Variant("plain", _feed_plainly, (cfg, 2 if options.tiny else 32), threads=1, keep=False),
        ],
        options.repeat,
    )
    rate = {name: t.values[0] / t.median_s for name, t in timings.items()}
    what = f"gather + scale, rotate, flip, {cfg.data.image_size} px, one core"
    return [
        at_least(
            "feed", what, f"{rate['ours']:.0f} img/s", f"{rate['plain']:.1f} img/s", rate["ours"] / rate["plain"], 12
        )
    ]
