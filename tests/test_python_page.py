"""docs/python.md: its blocks are one script, which runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_blocks_of_the_page_are_a_script_that_trains_evaluates_predicts_and_reports(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    (tmp_path / "script.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").exists()
    assert list((tmp_path / "predictions").rglob("*mask*.tif"))
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"<Run .*runs/mine: finished, best mean DSC \d\.\d+ \(n = 2, .*\)>", lines[0]), lines
    folder = "runs/mine/evaluation/validation-last"
    assert re.fullmatch(rf"<Evaluation: mean DSC \d\.\d+ \(n = 2, .*{folder}>", lines[1]), lines
    assert lines[-1].startswith("runs/mine: this run has optim.lr="), lines
