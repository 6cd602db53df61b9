"""The line that a report advises writes what the report reads."""

import shlex
import shutil
from pathlib import Path

from segtrain.commands import evaluate
from segtrain.config import Postprocessing
from segtrain.report import scored
from segtrain.report.collect import collect
from segtrain.report.source_geometry import in_source_geometry
from segtrain.run import ChosenPostprocessing, FoldMember, RegionChoice, Run, write_postprocessing
from segtrain.run.manifest import weights_sha256


def test_scores_in_the_source_are_as_configured_whatever_was_chosen_since(trained_run: Run, tmp_path: Path) -> None:
    root = Path(shutil.copytree(trained_run.root, tmp_path / "a run", ignore=shutil.ignore_patterns("evaluation")))
    (run,) = collect([root])
    last = run.run.checkpoint(run.run.saved_step())
    configured, best = run.run.config().evaluate.of("lesion"), Postprocessing(0.3, False, 5)
    choice = RegionChoice(best, configured, best, 12, 0.7, 0.75, 0.03, 0.01, 0.05)
    members = (FoldMember(root.name, 0, last.name, weights_sha256(last)),)
    others = (FoldMember("another", 1, "step-00000001", "0"),)
    postprocessing = ChosenPostprocessing(members, others, ("somebody",), "none", 126, "best", {"lesion": choice})
    write_postprocessing(run.run, postprocessing, postprocessing, [])
    assert evaluate.command([str(root), "--checkpoint", "last", "--lesions", "none"]) == 0
    assert [folder.name for folder in run.run.evaluations.iterdir()] == ["validation-last-postprocessed"]
    assert in_source_geometry(run) is None
    words = shlex.split(scored.command(run, scored.LAST))
    assert words[:2] == ["segtrain", "evaluate"]
    assert evaluate.command(words[2:]) == 0
    assert in_source_geometry(run) is not None
