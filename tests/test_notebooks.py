"""The notebooks run to their last cell on made-up patients, and are stored without what they put out."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import Shared, give_phantoms

from segtrain.config import load_config

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: no notebook to run")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: no notebook to read")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: no kernel to run a notebook in")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWS = {
    "train": ["finished, best mean DSC", "data:image/", "report/index.html"],
    "inference": ["predictions.zip", "uncertainty.csv", "image/png"],
    "own_loss": ["squared_dice", "finished, best mean DSC", "verdict"],
}


def test_there_are_three_notebooks() -> None:
    assert {file.stem for file in NOTEBOOKS} == set(SHOWS)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_to_its_end_and_shows_what_it_promises(
    file: Path, tmp_path: Path, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_phantoms(tmp_path, shared)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # of `!segtrain`
    book = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = json.dumps([cell.get("outputs", []) for cell in book.cells])
    assert "made-up patients: no score below says anything" in shown
    for promised in SHOWS[file.stem]:
        assert promised in shown, shown[-3000:]
    assert "Traceback" not in shown


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_says_how_large_and_long_the_published_protocol_is(file: Path) -> None:
    cfg = load_config("lgg", ["data.root=/data/kaggle_3m"])
    assert f"# the published protocol: {cfg.data.image_size} px, {cfg.train.epochs} epochs" in file.read_text()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_stored_without_outputs(file: Path) -> None:
    cells: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
