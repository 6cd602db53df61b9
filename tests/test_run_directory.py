"""The run directory: its names have one owner, foreign files in it do no harm, its result is computed once."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_runs import train
from snapshots import newest_of, same, save, snapshot

from segtrain.commands import evaluate
from segtrain.config import Config
from segtrain.errors import RunError
from segtrain.report.collect import collect
from segtrain.run import Result, Run, layout
from segtrain.run.checkpoint import prune

ROOT = Path(__file__).resolve().parent.parent
NAMES = re.compile(
    r"(?<![\w.])(config\.yaml|environment\.json|split\.json|metrics\.jsonl|state\.json|manifest\.json|memory\.json|"
    r"outcome\.json|tracked\.json|scores\.csv|summary\.json|results\.csv|queue\.csv|log\.txt|(?:model|optimizer)\.safetensors|"
    r"step-|epoch-|LATEST|BEST|STOP)(?![\w.])|^(checkpoints)$"
)
# Strings with such a name outside of segtrain/run, docstrings apart: help, messages and other folders' files.
ELSEWHERE = {
    "segtrain/commands/evaluate.py": {"split.json"},  # help
    "segtrain/doctor/forecast.py": {"config.yaml"},  # of a trial, in a temporary folder
    "segtrain/errors.py": {"STOP"},  # a message
    "segtrain/evaluation/ensemble.py": {"split.json"},  # a message
    "segtrain/evaluation/prediction_files.py": {"scores.csv"},  # of `segtrain predict`, in its own folder
    "segtrain/report/earlier.py": {"results.csv"},  # the report's own
    "segtrain/report/texts_en.py": {"results.csv", "model.safetensors"},
    "segtrain/report/texts_zh.py": {"results.csv", "model.safetensors"},
    "jobs/ablate.py": {"results.csv", "STOP"},  # help
    "jobs/history.py": {"STOP"},  # the sentence of old entries
    "jobs/cancel.py": {"STOP"},  # help, a message
    "jobs/logs.py": {"log.txt"},  # help
    "jobs/offline/__main__.py": {"STOP"},  # help
    "jobs/requeue.py": {"STOP"},  # a message
    "jobs/offline/manifest.py": {"manifest.json"},  # the mirror's own
}


def strings(path: Path) -> Iterator[str]:
    """All string constants of a file but its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


def test_only_the_room_run_names_the_files_of_a_run() -> None:
    others: dict[str, set[str]] = {}
    for path in sorted([*(ROOT / "segtrain").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]):
        name = str(path.relative_to(ROOT))
        if name.startswith("segtrain/run/"):
            continue
        for text in strings(path):
            for match in NAMES.finditer(text):
                if match[0] not in ELSEWHERE.get(name, set()):
                    others.setdefault(name, set()).add(match[0])
    assert not others, "ask segtrain.run.layout for the name"


def test_a_step_and_an_epoch_are_read_back_from_their_names(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (0, 10, 99_999_999, 100_000_000):
        assert layout.step_of(run.checkpoint(step).name) == step
    for epoch in (1, 9999, 10_000):
        for file in (run.validation_table(epoch), run.validation_picture(epoch)):
            assert layout.epoch_of(file.name) == epoch
    for name in (
        "step-00000010.bak",
        "step-00000010 (copy)",
        "step-10",
        "step-000000010",
        "step-",
        "bad-step-00000010",
    ):
        assert layout.step_of(name) is None
    for name in ("epoch-0012.csv.bak", "epoch-0012-mine.csv", "epoch-.csv", "epoch-12.csv", "epoch-0012.txt"):
        assert layout.epoch_of(name) is None


@pytest.mark.law("L7")
def test_folders_that_training_did_not_name_are_ignored_and_stay(run: Run) -> None:
    """Somebody's copies of checkpoints count as none: not to resume from, not to prune."""
    save(run, 10)
    foreign = [run.checkpoints / name for name in ("step-00000010.bak", "step-mine", "step-00000099 (copy)")]
    for folder in foreign:
        folder.mkdir()
    (run.checkpoints / "step-00000098").write_text("a file")
    assert (run.saved_step(), run.saved_steps()) == (10, [10])
    save(run, 11)
    prune(run, keep=1)
    assert run.saved_steps() == [11]
    newest = newest_of(run)
    assert newest is not None
    assert same(newest, snapshot(11))
    assert all(folder.is_dir() for folder in foreign)


def test_a_rewind_leaves_files_that_training_did_not_name(run: Run) -> None:
    run.validation.mkdir(parents=True)
    mine = run.validation / "epoch-mine.csv"
    for file in (mine, run.validation_table(1), run.validation_table(2), run.validation_picture(2)):
        file.touch()
    run.rewind(step=0, epoch=1)
    assert sorted(run.validation.iterdir()) == sorted([mine, run.validation_table(1)])


@pytest.mark.law("L12")
def test_a_missing_checkpoint_is_refused_with_the_steps_that_there_are(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    for folder in (run.checkpoint(10), run.checkpoint(20), run.checkpoints / "step-00000020.bak"):
        folder.mkdir()
    with pytest.raises(RunError, match=r"there are those of steps 10, 20$"):
        evaluate.command([str(run.root), "--checkpoint", "987"])


def test_the_result_is_that_of_the_report(tmp_path: Path) -> None:
    """Best and last epoch, by the events of a run that is made: 0.9, 0.5, 0.7 and the mean of 0.00 to 0.05."""
    run = train(tmp_path / "base-seed1")
    result = run.result()
    assert (result.state, result.epochs, result.best_epoch, result.n) == ("finished", 3, 1, 6)
    assert (result.best_dsc, result.last_dsc) == pytest.approx((0.925, 0.725))
    (collected,) = collect([run.root])
    assert collected.best is not None
    assert collected.last is not None
    assert (collected.best.dsc, collected.last.dsc) == (result.best_dsc, result.last_dsc)
    assert Run(tmp_path / "none").result() == Result("none")


def test_a_run_is_where_its_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run.of(Config(name="a", runs_dir="~/runs"))
    assert run == Run(tmp_path / "runs" / "a")
    assert not run.root.exists()


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", ["ablation.json", "queue.csv", "results.csv"])
def test_a_folder_of_runs_is_no_run(tmp_path: Path, name: str) -> None:
    """With --fresh it would be moved aside, with all its runs."""
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / name).touch()
    with pytest.raises(RunError, match=f"loss: is a folder of runs, with their {name}; choose another name="):
        Run(tmp_path / "loss").refuse_unwritable()
    assert [path.name for path in (tmp_path / "loss").iterdir()] == [name]
    Run(tmp_path / "other").refuse_unwritable()


def test_the_runs_of_a_folder_and_of_its_ablations_are_found(tmp_path: Path) -> None:
    for name in ("one", "loss/dice-seed1", "loss/bce-seed1"):
        run = Run(tmp_path / name)
        run.root.mkdir(parents=True)
        run.config_file.touch()
    (tmp_path / "empty").mkdir()
    names = {str(root.relative_to(tmp_path)) for root in layout.run_folders(tmp_path)}
    assert names == {"one", "loss/dice-seed1", "loss/bce-seed1"}
