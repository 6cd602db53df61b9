"""The same patients in any layout give the same store, the same order of samples and the same losses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import Shared
from rewritten import as_nifti, as_nnunet, as_slices_of_16_bits
from trainings import run_to_end, state_of

from segtrain.config import Config, load_config
from segtrain.data.layouts import Settings, write_phantoms
from segtrain.data.prepare import ensure_store
from segtrain.data.sources.open import make_source

LAYOUTS: dict[str, Callable[[Path, Path], Path]] = {
    "nifti": as_nifti,
    "nnunet": as_nnunet,
    "slices": as_slices_of_16_bits,
}


def config(source: str, root: Path, folder: Path) -> Config:
    in_order = ["data.contrasts=[pre, flair, post]"] if source == "nifti" else []
    return load_config(
        None,
        [
            "name=same", f"data.source={source}", f"data.root={root}", f"data.store={folder}", "data.image_size=32",
            "data.validation_patients=1", "model={features: 4, norm: group}", "train={epochs: 1, global_batch: 4}",
            "threads_per_rank=1", "device=cpu", "data.workers=1", *in_order,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(shared: Shared) -> Path:
    """Made-up patients in the LGG layout."""
    settings = Settings(load_config(None, ["data.phantom={patients: 4, size_px: 64}"]).data.phantom, bits=8)
    return shared("lgg-phantoms", lambda folder: write_phantoms("lgg", folder / "in", settings)) / "in"


@pytest.fixture(scope="module")
def plain(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on them as they are."""
    folder = tmp_path_factory.mktemp("plain")
    run_to_end(folder, config("lgg", root, folder / "store"), 1)
    return folder


@pytest.mark.parametrize("source", list(LAYOUTS))
def test_real_patients_give_the_same_store_in_any_layout(source: str, lgg_root: Path, tmp_path: Path) -> None:
    ours = ensure_store(config(source, LAYOUTS[source](lgg_root, tmp_path / "in"), tmp_path / "a").data)
    theirs = ensure_store(config("lgg", lgg_root, tmp_path / "b").data)
    assert list(ours.patients) == list(theirs.patients)
    for patient in theirs.patients:
        one, other = ours.patients[patient], theirs.patients[patient]
        assert (one.areas, one.geometry, one.slice_numbers) == (other.areas, other.geometry, other.slice_numbers)
        (image, mask), (their_image, their_mask) = ours.volume(patient), theirs.volume(patient)
        np.testing.assert_array_equal(mask, their_mask)
        np.testing.assert_array_equal(image, their_image)


@pytest.mark.law("L2")
@pytest.mark.parametrize("source", list(LAYOUTS))
def test_training_is_the_same_in_any_layout(source: str, root: Path, plain: Path, tmp_path: Path) -> None:
    """The losses are bitwise those of the LGG layout."""
    cfg = config(source, LAYOUTS[source](root, tmp_path / "in"), tmp_path / "store")
    assert make_source(cfg.data).patients() == sorted(path.name for path in root.iterdir() if path.is_dir())
    ours, theirs = state_of(run_to_end(tmp_path / "out", cfg, 1)), state_of(plain / "runs" / "same")
    losses = [[event["loss"] for event in state["events"] if "loss" in event] for state in (ours, theirs)]
    assert losses[0]
    assert losses[0] == losses[1]
    assert ours["tables"] == theirs["tables"]
