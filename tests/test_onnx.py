"""`segtrain export --onnx`: a file that is there only if it gives what torch gives, and says how it is used."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from predictions import IMAGE
from test_architecture import ROOT

from segtrain.commands import export
from segtrain.config import DataConfig
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources.base import Volume, plain_slice_names
from segtrain.errors import ConfigError, RunError
from segtrain.evaluation import onnx_model
from segtrain.evaluation.ensemble import network_of, select_checkpoints
from segtrain.evaluation.onnx_metadata import channels_of, steps_of
from segtrain.run import Run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "trained.onnx"
    assert export.command([str(trained_run.root), "--onnx", "--out", str(out)]) == 0
    return out


def session_of(file: Path) -> Any:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def metadata_of(file: Path) -> dict[str, Any]:
    """As another program reads it."""
    texts = session_of(file).get_modelmeta().custom_metadata_map
    return {key: json.loads(text) if text[:1] in "[{" else text for key, text in texts.items()}


def by_hand(image_shwc: NDArray[Any], size: int) -> NDArray[np.float32]:
    """A volume [s, h, w, c] prepared in the steps of the metadata, by scikit-image: [s, c, size, size]."""
    from skimage.transform import resize

    image = image_shwc[1:-1].copy()
    image[image < 0.1 * image.max()] = 0
    (z0, z1), (y0, y1), (x0, x1) = ((axis.min(), axis.max() + 1) for axis in np.nonzero(image.any(-1)))
    image = image[z0:z1, y0:y1, x0:x1]
    side, around = max(image.shape[1:3]), [(0, 0)] * 4
    for axis in (1, 2):
        around[axis] = ((side - image.shape[axis]) // 2, side - image.shape[axis] - (side - image.shape[axis]) // 2)
    shape = (size, size)
    image = np.stack([
        np.stack([resize(plane[..., c], shape, 2, "constant", anti_aliasing=False) for c in range(image.shape[-1])])
        for plane in np.pad(image, around)
    ])  # fmt: skip
    low, high = np.percentile(image, (10, 99))
    image = (np.clip(image, low, high) - low) / (high - low)
    image -= image.mean((0, 2, 3), keepdims=True)
    image /= image.std((0, 2, 3), keepdims=True)
    prepared: NDArray[np.float32] = image.astype(np.float16).astype(np.float32)
    return prepared


def test_another_program_gets_the_probabilities_by_the_metadata_alone(
    exported: Path, trained_run: Run, predicted_patient: Path
) -> None:
    """Of a volume that the run has not seen, against torch on slices that segtrain prepared."""
    about = metadata_of(exported)
    slices = by_hand(IMAGE, about["preparation"]["image_size"])
    (probability,) = session_of(exported).run(["probability"], {"image": slices})
    volume = Volume(IMAGE, None, plain_slice_names(len(IMAGE)), tuple(range(len(IMAGE))))
    prepared = preprocess(volume, Preparation.of(trained_run.config().data), "test")
    (one,) = select_checkpoints([trained_run.root], "best", [])
    image = torch.from_numpy(prepared.image_shwc.astype(np.float16).astype(np.float32).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        expected = network_of(one, torch.device("cpu"))(image).sigmoid().numpy()
    assert probability.shape == expected.shape
    threshold = about["postprocessing"]["lesion"]["threshold"]
    assert (expected > threshold).sum() > 50, "some lesion is predicted, or the test says nothing"
    assert np.abs(probability - expected).mean() < 1e-3
    assert ((probability > threshold) != (expected > threshold)).mean() < 1e-3


def test_the_example_of_the_docs_runs_as_it_stands(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "prediction.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "lgg.onnx").symlink_to(exported)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"slices": np.zeros((2, 3, 32, 32), np.float32)}
    exec(block, names)
    assert "leave out the first and the last slice" in capsys.readouterr().out
    assert names["lesion"].shape == (2, 32, 32)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_of_any_size_give_the_same(exported: Path, batch: int) -> None:
    session = session_of(exported)
    (image,) = session.get_inputs()
    assert [image.name, image.shape[1:]] == ["image", [3, 32, 32]]
    slices = np.random.default_rng(1).normal(size=(5, 3, 32, 32)).astype(np.float32)
    (together,) = session.run(None, {"image": slices})
    parts = [session.run(None, {"image": slices[at : at + batch]})[0] for at in range(0, 5, batch)]
    np.testing.assert_allclose(np.concatenate(parts), together, atol=1e-5)


@pytest.mark.law("L10")
@pytest.mark.law("L15")
def test_the_metadata_say_what_it_is_and_how_it_was_checked(exported: Path, trained_run: Run) -> None:
    about = metadata_of(exported)
    onnx.checker.check_model(str(exported))
    assert about["channels"] == ["pre-contrast", "FLAIR", "post-contrast"]
    assert about["regions"] == ["lesion"]
    assert about["preparation"]["steps"] == steps_of(trained_run.config().data)
    assert about["licence_of_the_data"].startswith("none: patients made up")
    check = about["check"]
    assert 0 <= check["largest_difference"] <= check["tolerance"] == 1e-4
    assert check["batches"][:2] == [1, 3]
    assert check["slices"] > 20


def test_channels_and_steps_are_those_of_the_config() -> None:
    data = DataConfig(source="nifti", root="/d", contrasts=("t1", "flair"), neighbours=1, protocol="zscore")
    assert channels_of(data) == ["t1 of slice -1", "flair of slice -1", "t1", "flair", "t1 of slice +1",
                                 "flair of slice +1"]  # fmt: skip
    steps = steps_of(replace(data, spacing_mm=0.9))
    assert "crop to the box of the head" in steps[0]
    assert any(step.startswith("resample to 0.9 mm") for step in steps)


@pytest.mark.law("L12")
def test_a_file_that_differs_from_torch_is_not_kept(
    exported: Path, trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "_export", lambda network, slices, file, batch: shutil.copyfile(exported, file))
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda self, *rest: [output + 1e-3 for output in run(self, *rest)]
    )
    with pytest.raises(RunError, match=r"differs from torch by 0.001 .*more than 0.0001; it is not kept"):
        export.command([str(trained_run.root), "--onnx", "--out", str(tmp_path / "x.onnx")])
    assert not list(tmp_path.iterdir())


@pytest.mark.law("L12")
def test_what_is_missing_or_in_the_way_is_named(
    exported: Path, trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(trained_run.root), "--onnx", "--out"]
    with pytest.raises(RunError, match="is there already"):
        export.command([*words, str(exported)])
    with pytest.raises(ConfigError, match=r"optim.lr: fixed by the run"):
        export.command([*words, str(tmp_path / "x.onnx"), "optim.lr=1"])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match="--onnx needs onnxscript, which is not installed; pip install onnxscript"):
        export.command([*words, str(tmp_path / "x.onnx")])
    assert not list(tmp_path.iterdir())
