"""An nnU-Net data set trained, scored and predicted: regions by name, ignored voxels left out, label maps back."""

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from folders import Shared
from predictions import predict
from trainings import run_to_end

from segtrain.config import IGNORED, PhantomConfig, load_config
from segtrain.data.layouts import Settings, write_phantoms
from segtrain.data.prepare import ensure_store
from segtrain.run import Run

PHANTOM = PhantomConfig(patients=6, size_px=64, regions=3, contrasts=("t1", "t1ce", "t2", "flair"), unlabelled=0.4)
REGIONS = ("whole", "core", "enhancing")


def _train(folder: Path) -> None:
    write_phantoms("nnunet", folder / "in", Settings(PHANTOM, bits=16))
    cfg = load_config(
        None,
        [
            "name=nnunet", "data.source=nnunet", f"data.root={folder / 'in'}", f"data.store={folder / 'store'}",
            "data.image_size=32", "data.validation_patients=2", "model={features: 4, norm: group}", "loss=dice_bce",
            "train={epochs: 2, global_batch: 4}", "optim={lr: 3.0e-3}", "threads_per_rank=1", "device=cpu",
        ],
    )  # fmt: skip
    run_to_end(folder, cfg, 2)


@pytest.fixture(scope="module")
def folder(shared: Shared) -> Path:
    """A data set, four slices of ten of which nobody labelled, and a run on two ranks; tests only read them."""
    return shared("nnunet-run", _train)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Run(folder / "runs" / "nnunet")


def test_the_run_says_what_came_with_the_data_and_reads_the_same_store(folder: Path, run: Run) -> None:
    data = load_config(run.root / "config.yaml", stored=True).data
    assert (data.contrasts, data.regions, data.ignore) == (PHANTOM.contrasts, PHANTOM.labels, (4,))
    ensure_store(data)
    assert len(list((folder / "store").glob("nnunet-*"))) == 1


def test_voxels_that_nobody_labelled_are_not_counted(run: Run) -> None:
    store = ensure_store(load_config(run.root / "config.yaml", stored=True).data)
    rows = list(csv.DictReader((run.root / "validation" / "epoch-0002.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(REGIONS)
    for row in rows:
        _, mask = store.volume(row["patient"])
        known = mask != IGNORED
        assert not known.all()
        assert int(row["voxels"]) == ((mask >> REGIONS.index(row["region"])) & 1)[known].sum()
        assert int(row["tp"]) + int(row["fp"]) + int(row["fn"]) <= known.sum()


def test_predictions_lie_on_the_grid_of_the_images(folder: Path, run: Run, tmp_path: Path) -> None:
    """A mask for each region, and a map of labels under the name that nnU-Net gives its predictions."""
    out = predict(run, folder / "in" / "imagesTs", tmp_path / "out")
    image: Any = nibabel.load(folder / "in/imagesTs/PHANTOM_0007_0003.nii.gz")
    labels: Any = nibabel.load(out / "labels/PHANTOM_0007.nii.gz")
    found = np.asanyarray(labels.dataobj)
    assert labels.shape == image.shape
    np.testing.assert_array_equal(labels.affine, image.affine)
    assert set(np.unique(found)) <= {0, 1, 2, 3}, "what is ignored is never predicted"
    masks: dict[str, Any] = {
        region: nibabel.load(out / "masks" / region / "PHANTOM_0007_mask.nii.gz") for region in REGIONS
    }
    whole, core, enhancing = (np.asanyarray(mask.dataobj) > 0 for mask in masks.values())
    np.testing.assert_array_equal(found == 3, whole & core & enhancing)
    np.testing.assert_array_equal(found == 1, whole & core & ~enhancing)
    np.testing.assert_array_equal(found == 2, whole & ~core)
