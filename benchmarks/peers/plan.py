"""The patients and sizes of a comparison, from a folder of real patients or of phantoms."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import folder_of_patients
from benchmarks.harness import Options
from benchmarks.peers.work import Work
from segtrain.config import DataConfig
from segtrain.data.prepare import ensure_store


@dataclass(frozen=True)
class Sizes:
    """What the command line sets. A quarter of the patients, one at least, is scored."""

    patients: int
    size_px: int
    batch: int
    epochs: int
    features: int


def raw_folder(options: Options, patients: int) -> Path:
    """A folder of copies; one of links the reference's os.walk would find empty."""
    source = folder_of_patients(options, patients)
    folder = options.folder / "peers" / f"raw-{source.name}"
    if not folder.is_dir():
        copying = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(copying, ignore_errors=True)
        shutil.copytree(source, copying)
        copying.rename(folder)
    return folder


def plan(options: Options, sizes: Sizes) -> Work:
    """The work; as many steps an epoch as the reference protocol has slices for."""
    raw = raw_folder(options, sizes.patients)
    names = sorted(folder.name for folder in raw.iterdir())
    # As the reference's dataset.py draws them.
    validation = random.Random(42).sample(names, k=max(1, len(names) // 4))
    train = sorted(set(names) - set(validation))
    store = str(options.folder / "peers" / "counted")
    counted = ensure_store(DataConfig(source="lgg", root=str(raw), store=store, image_size=sizes.size_px)).patients
    slices = {name: counted[name].slices for name in names}
    steps = sum(slices[name] for name in train) // sizes.batch
    return Work(
        str(raw),
        train,
        validation,
        sum(slices[name] for name in validation),
        sizes.size_px,
        sizes.batch,
        sizes.epochs,
        sizes.features,
        steps,
    )
