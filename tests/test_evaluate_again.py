"""`segtrain evaluate` into a folder that has scores: what is not of the same checkpoint and geometry stays."""

import json
import shutil
from pathlib import Path

import pytest

from segtrain.commands.evaluate import command
from segtrain.run import Run
from segtrain.runtime.process import run_command


@pytest.mark.law("L12")
def test_scores_of_another_geometry_or_checkpoint_are_not_replaced(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(trained_run.root, run.root, ignore=shutil.ignore_patterns("evaluation"))
    last = run.saved_step()
    assert last is not None
    shutil.copytree(run.checkpoint(last), run.checkpoint(1))
    run.best_pointer.write_text("step-00000001\n")
    out, own = tmp_path / "out", run.evaluation("validation", "best")
    this_run = [str(run.root), "--lesions", "none"]
    for more in (["--geometry", "prepared", "--out", str(out)], ["--out", str(out)], []):
        assert command([*this_run, *more]) == 0, "both geometries have the scores of one"
    for folder, more, words in (
        (own, ["--geometry", "prepared"], "geometries: prepared, original"),
        (out, ["--geometry", "original", "--out", str(out)], "geometries: prepared, original"),
        (out, ["--checkpoint", "last", "--out", str(out)], "checkpoints: step-00000001"),
    ):
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert run_command(command, [*this_run, *more]) == 2
        assert f"{folder}: holds other scores ({words}); name another folder with --out" in capsys.readouterr().err
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    run.best_pointer.write_text(f"{run.checkpoint(last).name}\n")
    assert command(this_run) == 0, "the run's own folder follows the run"
    assert json.loads((own / "summary.json").read_text())["runs"][0]["checkpoint"] == run.checkpoint(last).name
