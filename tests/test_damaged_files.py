"""A damaged file of a run: named by whoever needs it, made again where it can be, passed over by all others."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_runs import KINDS, good, odd_copies
from trainings import assert_same, run_to_end, state_of

from segtrain.config import Config
from segtrain.errors import DamagedFile, RunError
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.run import Environment, Run
from segtrain.run.events import evaluations

SPLIT = {"hash": "0", "train": [], "validation": [f"patient{number}" for number in range(6)]}
MICRO_BATCH = {"micro_batch": 1, "asked": None, "device": "cpu", "why": "no memory", "time": 0.0}
FILES = ("environment.json", "split.json", "metrics.jsonl", "memory.json", "outcome.json")
CASES = [(file, kind) for file in FILES for kind in KINDS]
# A metrics.jsonl without a whole line, as a crash leaves one, holds no events.
NO_EVENTS = ("empty", "no-json", "zeros", "latin")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = good(tmp_path_factory.mktemp("damaged") / "a")
    run.record_out_of_memory(MICRO_BATCH)
    return run.root


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Run:
    shutil.copytree(pristine, tmp_path / "runs" / "a")
    return Run(tmp_path / "runs" / "a")


def resume(run: Run) -> list[int]:
    """What a start reads and writes in the run before its first step; the epochs that stay."""
    cfg = run.config()
    run.finished(cfg)
    run.begun_by("1")
    run.open(cfg, SPLIT, [], Environment.now(1, "cpu"))
    run.out_of_memory()
    events, _ = run.rewind(30, 2, recorded=30)
    return [event.epoch for event in evaluations(events)]


@pytest.mark.law("L12")
@pytest.mark.parametrize(("file", "kind"), CASES)
def test_a_start_goes_on_without_what_it_can_make_again_and_names_the_rest(
    run: Run, file: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    KINDS[kind](file)(run)
    if file in ("split.json", "metrics.jsonl") and not (file == "metrics.jsonl" and kind in ("cut", *NO_EVENTS)):
        with pytest.raises(DamagedFile, match=rf"{file}: cannot be read \(.*; restore"):
            resume(run)
        return
    epochs = resume(run)
    assert file in caplog.text
    assert epochs == ([1, 2] if file != "metrics.jsonl" else [1] if kind == "cut" else [])
    assert len(run.starts()) == (1 if file == "environment.json" else 2)
    is_kept = file == "environment.json" or (file, kind) == ("outcome.json", "folder")
    assert [path.name for path in run.root.glob("*.damaged-1")] == [f"{file}.damaged-1"] * is_kept
    assert run.outcome() is None


@pytest.mark.parametrize(("file", "kind"), CASES)
def test_who_uses_the_weights_needs_the_split_alone(run: Run, file: str, kind: str) -> None:
    """As evaluate, predict and an atlas do."""
    KINDS[kind](file)(run)
    if file == "split.json":
        with pytest.raises(DamagedFile, match=r"split\.json: cannot be read \(.*; restore the file"):
            select_checkpoints([run.root], "best", [])
    else:
        [checkpoint] = select_checkpoints([run.root], "best", [])
        assert checkpoint.folder.name == "step-00000030"


@pytest.mark.law("L12")
def test_a_config_that_is_cut_at_the_end_of_any_line_is_no_config(run: Run) -> None:
    lines = run.config_file.read_text().splitlines(keepends=True)
    whole = run.config_tree()
    run.config_file.write_text("".join(lines).rstrip())
    assert run.config_tree() == whole, "as some editors leave it"
    for length in range(len(lines)):
        run.config_file.write_text("".join(lines[:length]))
        with pytest.raises(RunError, match="holds no readable run"):
            run.config_tree()


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"cut"}))
def test_a_lost_pointer_is_derived_again_or_named(run: Run, kind: str) -> None:
    KINDS[kind]("checkpoints/LATEST")(run)
    KINDS[kind]("checkpoints/BEST")(run)
    assert run.latest_checkpoint() == "step-00000030"
    assert run.best_checkpoint() is None, "the best epoch's was step 10, which is not kept"
    with pytest.raises(RunError, match="has no best checkpoint; train it, or name a step"):
        select_checkpoints([run.root], "best", [])


def test_copies_with_odd_names_stay_and_are_passed_over(run: Run) -> None:
    odd_copies(run)
    before = {path.relative_to(run.root) for path in run.root.rglob("*")}
    assert run.saved_steps() == [30]
    resume(run)
    gone = {path.as_posix() for path in before if not (run.root / path).exists()}
    assert gone == {"outcome.json", "validation/epoch-0003.csv", "validation/epoch-0003.png"}
    [checkpoint] = select_checkpoints([run.root], "last", [])
    assert checkpoint.folder.name == "step-00000030"


@pytest.mark.law("L6")
def test_a_run_goes_on_bitwise_without_what_is_derived(tmp_path: Path, tiny: Config) -> None:
    two, one = (replace(tiny, train=replace(tiny.train, epochs=epochs)) for epochs in (2, 1))
    whole, half = run_to_end(tmp_path / "whole", two, 1), Run(run_to_end(tmp_path / "half", one, 1))
    for file in ("environment.json", "outcome.json", "memory.json"):
        (half.root / file).write_text("null")
    half.best_pointer.unlink()
    again = run_to_end(tmp_path / "half", two, 1)
    assert_same(state_of(again), state_of(whole))
    assert len(Run(again).starts()) == 1


def test_a_pointer_to_an_endless_name_is_none(run: Run) -> None:
    run.best_pointer.write_text(f"step-{'9' * 300}\n")
    run.latest_pointer.write_text(f"step-{'9' * 300}\n")
    assert (run.best_checkpoint(), run.latest_checkpoint()) == (None, "step-00000030")
