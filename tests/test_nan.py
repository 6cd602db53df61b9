"""Networks whose output is NaN: refused by patient, never taken for masks without a lesion."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from predictions import write_patient
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtrain.commands import evaluate as evaluate_command
from segtrain.commands import predict as predict_command
from segtrain.config import EvaluateConfig
from segtrain.data.sources.phantom import phantom_patient
from segtrain.data.store import Store
from segtrain.errors import DataError
from segtrain.evaluation.evaluate import score_patient
from segtrain.evaluation.predictor import Predictor
from segtrain.run import Run
from segtrain.run.manifest import fingerprint, manifest_of, read_manifest
from segtrain.runtime.process import run_command

CPU = torch.device("cpu")


@pytest.fixture
def poisoned(trained_run: Run, tmp_path: Path) -> Path:
    """A copy of the run whose weights hold one NaN, as its manifest says they should."""
    run = Run(tmp_path / "poisoned")
    shutil.copytree(trained_run.root, run.root)
    for name in run.pointed_checkpoints():
        folder = run.checkpoints / name
        file = folder / "model.safetensors"
        weights = load_file(file)
        next(weight for weight in weights.values() if weight.is_floating_point()).view(-1)[0] = float("nan")
        save_file(weights, file)
        listed = read_manifest(folder) | {file.name: fingerprint(file)}
        (folder / "manifest.json").write_text(json.dumps(manifest_of(listed)))
    return run.root


@pytest.mark.law("L12")
@pytest.mark.parametrize("what", ["evaluate", "predict"])
def test_weights_with_a_nan_are_refused_by_patient(
    what: str, poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command: Callable[[Sequence[str]], int] = evaluate_command.command
    arguments = [str(poisoned), "--out", str(tmp_path / "out")]
    if what == "predict":
        command = predict_command.command
        write_patient(tmp_path / "in", "NEW_0001", phantom_patient(1, 0, 64)[0], None)
        arguments += ["--images", str(tmp_path / "in")]
    assert run_command(command, arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("segtrain: error: patient ")
    assert "NaN" in message
    assert "--checkpoint" in message
    assert not (tmp_path / "out").exists()


def test_one_slice_is_enough(tiny_store: Store) -> None:
    patient = sorted(tiny_store.patients)[0]
    image_shwc, mask_shw = tiny_store.volume(patient)
    seen = 0

    def logits(image: Tensor) -> Tensor:
        nonlocal seen
        output = torch.zeros_like(image[:, :1])
        if seen <= 2 < seen + len(image):
            output[2 - seen, 0, 3, 3] = float("nan")
        seen += len(image)
        return output

    predictor = Predictor(logits, EvaluateConfig(batch=2), CPU)
    with pytest.raises(DataError, match=rf"patient {patient}: .* NaN in 1 of {len(mask_shw)} slices"):
        predictor.probability(image_shwc, mask_shw, where=f"patient {patient}")


def test_a_training_goes_on_and_says_so(tiny_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    patient = sorted(tiny_store.patients)[0]
    predictor = Predictor(lambda image: torch.full_like(image[:, :1], float("nan")), EvaluateConfig(), CPU)
    with caplog.at_level(logging.WARNING):
        score, *_ = score_patient(replace(predictor, training=True), None, tiny_store, patient, draw=False)
    assert f"patient {patient}: the network's output is NaN" in caplog.text
    assert {region.scored.tp + region.scored.fp for region in score.regions.values()} == {0}
