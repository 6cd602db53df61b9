"""The check of an ONNX file against torch, by stand-ins for the packages that write and run it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segtrain.commands import export
from segtrain.errors import RunError
from segtrain.evaluation import onnx_model
from segtrain.run import Run


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A runtime that gives what torch gives, with a NaN in the slices of these numbers."""
    numbers: list[int] = []
    networks: list[torch.nn.Module] = []
    done = 0

    def write(network: torch.nn.Module, slices: NDArray[Any], file: Path, batch: str) -> None:
        nonlocal done
        done = 0
        networks.append(network)
        file.write_bytes(b"a network")

    def run(names: list[str], inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        nonlocal done
        with torch.inference_mode():
            output: NDArray[np.float32] = networks[-1](torch.from_numpy(inputs["image"])).numpy().copy()
        for number in numbers:
            if done <= number < done + len(output):
                output[number - done, 0, 3, 4] = np.nan
        done += len(output)
        return [output]

    runtime = SimpleNamespace(InferenceSession=lambda *_, **__: SimpleNamespace(run=run), __version__="stand-in")
    for name, module in {"onnx": SimpleNamespace(), "onnxscript": SimpleNamespace(), "onnxruntime": runtime}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(onnx_model, "_export", write)
    monkeypatch.setattr(onnx_model, "_describe", lambda *_: None)
    return numbers


@pytest.mark.law("L12")
@pytest.mark.parametrize("number", [0, 2, 7])
def test_a_file_with_nan_in_one_slice_is_not_kept(
    trained_run: Run, tmp_path: Path, spoilt: list[int], number: int
) -> None:
    """In the first batch, in one amid others, and in the last slices; no later batch hides it."""
    words = [str(trained_run.root), "--onnx", "--out"]
    assert export.command([*words, str(tmp_path / "whole.onnx")]) == 0
    whole = (tmp_path / "whole.onnx").read_bytes()
    spoilt.append(number)
    with pytest.raises(RunError, match=r"differs from torch by nan of a probability.*it is not kept"):
        export.command([*words, str(tmp_path / "spoilt.onnx")])
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [whole]
