"""The blocks of Python of a page are one script, which runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

from folders import Shared, give_phantoms

DOCS = Path(__file__).resolve().parent.parent / "docs"


def lines_of(page: str, folder: Path) -> list[str]:
    """What the blocks of a page print, run one after the other in that folder."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    (folder / "script.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_python_md_trains_evaluates_predicts_and_reports(tmp_path: Path) -> None:
    lines = lines_of("python.md", tmp_path)
    assert (tmp_path / "report" / "index.html").exists()
    assert list((tmp_path / "predictions").rglob("*mask*.tif"))
    assert re.fullmatch(r"<Run .*runs/mine: finished, best mean DSC \d\.\d+ \(n = 2, .*\)>", lines[0]), lines
    folder = "runs/mine/evaluation/validation-last"
    assert re.fullmatch(rf"<Evaluation: mean DSC \d\.\d+ \(n = 2, .*{folder}>", lines[1]), lines
    assert lines[-1].startswith("runs/mine: this run has optim.lr="), lines


def test_notebook_md_trains_scores_and_reports(tmp_path: Path, shared: Shared) -> None:
    give_phantoms(tmp_path, shared)
    lines = lines_of("start/notebook.md", tmp_path)
    assert any(re.search(r"\d\.\d+ \(n = \d", line) for line in lines), lines
    assert (tmp_path / "report" / "index.html").exists()


def test_from_notebook_md_trains_the_network_and_the_loss_of_the_page(tmp_path: Path) -> None:
    lines = lines_of("from_notebook.md", tmp_path)
    assert any(re.search(r"\d\.\d+ \(n = \d", line) for line in lines), lines
    code = "".join(file.read_text() for file in (tmp_path / "runs/small/code").rglob("*.py"))
    assert "class SmallNet" in code
    assert "def dice_bce" in code
