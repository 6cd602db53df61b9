"""Trials that leave no outcome or cannot begin: lost, so that the search goes on; what was stopped is due."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from search_runs import Train, in_place_of_training, trains, write

from jobs import history, search
from jobs.queue import preflight
from jobs.queue.items import Item
from jobs.trials import Searching


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Train]]:
    return in_place_of_training(monkeypatch)


def booked(item: Item, how: str, **more: Any) -> None:
    """As a start that left no outcome is booked."""
    starts = history.History(item.run)
    starts.begin("local-1")
    starts.end("local-1", how, "a reason", **more)


@pytest.mark.parametrize(
    ("how", "more", "starts"),
    [
        ("failed", {"faults": ["rank 1 was killed by SIGKILL"]}, 3),
        ("failed", {}, 1),
        ("given up", {}, 1),
    ],
)
def test_a_trial_that_leaves_no_outcome_is_lost_after_its_retries_and_the_search_goes_on(
    tmp_path: Path, trained: tuple[list[str], list[Train]], how: str, more: dict[str, Any], starts: int
) -> None:
    """Also for the command after that. What was stopped is tried again, however often."""
    begun: list[str] = []

    def loses_the_fourth(item: Item) -> None:
        begun.append(item.name)
        if item.name.startswith(Searching(spec, []).trials[3].name):
            booked(item, how, **more)
        else:
            trains(item)

    trained[1][0] = loses_the_fourth
    spec = write(tmp_path, folds=[3])
    assert search.command([str(spec)]) == 0
    searching = Searching(spec, [])
    lost = searching.trials[3].name
    assert begun.count(f"{lost}-fold3-seed42") == starts
    assert [name for name, value in searching.scores()[0].items() if value is None] == [lost]
    assert lost not in searching.scores()[1]
    begun.clear()
    assert search.command([str(spec)]) == 0
    assert begun == []


@pytest.mark.law("L8")
@pytest.mark.parametrize("how", ["stopped", "requeued", "left to SLURM", "cut off"])
def test_a_trial_that_was_stopped_or_preempted_is_due(
    tmp_path: Path, trained: tuple[list[str], list[Train]], how: str
) -> None:
    def stops_the_fourth(item: Item) -> None:
        booked(item, how) if item.name.startswith(Searching(spec, []).trials[3].name) else trains(item)

    trained[1][0] = stops_the_fourth
    spec = write(tmp_path, folds=[3])
    assert search.command([str(spec)]) == 1
    stage = Searching(spec, []).next()
    assert stage is not None
    assert stage.due == [f"{Searching(spec, []).trials[3].name}-fold3-seed42"]


def test_where_no_trial_leaves_an_outcome_all_are_due(tmp_path: Path, trained: tuple[list[str], list[Train]]) -> None:
    """The fault is hardly theirs: the data are not there, say."""
    trained[1][0] = lambda item: booked(item, "failed")
    spec = write(tmp_path, trials=3, at_once=3, folds=[3])
    assert search.command([str(spec)]) == 1
    stage = Searching(spec, []).next()
    assert stage is not None
    assert len(stage.due) == 3


@pytest.mark.parametrize("reference_too", [False, True])
def test_a_trial_that_cannot_begin_is_lost_unless_the_reference_cannot_either(
    tmp_path: Path,
    trained: tuple[list[str], list[Train]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reference_too: bool,
) -> None:
    def problems(items: Sequence[Item], processes: int, stop: object) -> dict[str, str]:
        refused = {}
        for item in items:
            assert item.cfg is not None
            if item.cfg.loss == "dice" and "reference" not in item.name:
                refused[item.name] = "train.global_batch=15 cannot be shared"
            elif reference_too:
                refused[item.name] = "the data are not there"
        return refused

    monkeypatch.setattr(preflight, "problems", problems)
    spec = write(tmp_path, folds=[3])
    assert search.command([str(spec)]) == (2 if reference_too else 0)
    searching = Searching(spec, [])
    lost = {trial.name for trial in searching.trials if searching.scores()[0].get(trial.name, 0) is None}
    by_loss = {trial.name for trial in searching.trials if trial.settings["loss"] == "dice"}
    assert by_loss
    assert lost == (set() if reference_too else by_loss)
    if not reference_too:
        errors = capsys.readouterr().err.replace("\n", " ")
        assert f"trial {sorted(lost)[0]} is lost: train.global_batch=15 cannot be shared" in errors
