"""Searches: what is drawn, what goes on, and that a search which is killed ends as one that was left alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from search_runs import SPACE, Killed, Train, dying, in_place_of_training, trains, write

from jobs import confirm, proposals, search
from jobs.queue.items import Item
from jobs.trials import Searching
from segtrain.errors import BaselineIsBest, ConfigError, NoFoldLeft, RunError, SegtrainError
from segtrain.run.layout import TRIALS
from segtrain.run.search import Interval, Trial, better, read_search, read_trials
from segtrain.runtime.process import run_command

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Train]]:
    return in_place_of_training(monkeypatch)


def test_a_search_trains_its_stages_and_the_better_half_goes_on_which_the_next_round_learns_from(
    tmp_path: Path, trained: tuple[list[str], list[Train]], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(tmp_path, keep=2)
    assert search.command([str(spec)]) == 0
    names, _ = trained
    searching = Searching(spec, [])
    first, last = searching.scores()
    assert "/runs/.jobs/s/003 is reported" in capsys.readouterr().out.replace("\n", "")
    assert (len(first), len(last), len({name for name in names if "/reference" in name})) == (12, 6, 2)
    for number in (0, 1):
        of_round = [trial.name for trial in searching.trials if trial.round == number]
        ranked = sorted(of_round, key=lambda name: -(first[name] or 0))
        assert set(ranked[:3]) == {name for name in of_round if name in last}
    rounds = [[first[trial.name] or 0 for trial in searching.trials if trial.round == number] for number in (0, 1)]
    assert sum(rounds[1]) > sum(rounds[0]) + 0.3, "of six trials each"
    assert len(names) == len(set(names)) == 12 * 2 + 6 * 2 + 2


@pytest.mark.law("L6")
@pytest.mark.parametrize("every", [1, 4])
def test_a_search_that_is_killed_again_and_again_ends_as_one_that_was_left_alone(
    tmp_path: Path, trained: tuple[list[str], list[Train]], every: int
) -> None:
    names, how = trained
    ends = []
    for name in ("alone", "killed"):
        (folder := tmp_path / name).mkdir()
        spec = write(folder, trials=6, at_once=3)
        if name == "killed":
            how[0], names[:] = dying(every), []
        kills = 0
        while True:
            try:
                assert search.command([str(spec)]) == 0
                break
            except Killed:
                kills += 1
        assert (kills > 0) == (name == "killed")
        ends.append(((folder / "runs" / "s" / TRIALS).read_text(), Searching(spec, []).scores(), set(names)))
    assert ends[0] == ends[1]


def test_what_was_not_written_down_is_drawn_again(tmp_path: Path, trained: tuple[list[str], list[Train]]) -> None:
    """Killed between drawing and writing, and with another round's file cut off."""
    spec = write(tmp_path)
    assert search.command([str(spec)]) == 0
    file = tmp_path / "runs" / "s" / TRIALS
    lines = file.read_text().splitlines(keepends=True)
    before = len(trained[0])
    file.write_text("".join(lines[:6]))
    assert search.command([str(spec)]) == 0
    assert (file.read_text(), len(trained[0])) == ("".join(lines), before)


def test_more_trials_go_on_where_the_search_ended(tmp_path: Path, trained: tuple[list[str], list[Train]]) -> None:
    assert search.command([str(write(tmp_path))]) == 0
    before = (tmp_path / "runs" / "s" / TRIALS).read_text()
    assert search.command([str(write(tmp_path, trials=15))]) == 0
    after = (tmp_path / "runs" / "s" / TRIALS).read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 15


def test_a_trial_that_fails_is_lost_and_the_search_learns_that_it_is_bad(
    tmp_path: Path, trained: tuple[list[str], list[Train]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates above 1e-3 diverge."""

    states: list[str] = []

    def diverges(item: Item) -> None:
        assert item.cfg is not None
        if len(states) == 8:
            raise Killed
        states.append("diverged" if item.cfg.optim.lr > 1e-3 else "finished")
        trains(item, states[-1])

    trained[1][0] = diverges
    spec = write(tmp_path, trials=18)
    with pytest.raises(Killed):
        search.command([str(spec)])
    counts = f"{states.count('finished')} finished, {states.count('diverged')} failed"
    assert states.count("diverged")
    states.append("the next start")
    assert search.command([str(spec)]) == 0
    assert f"s-1-epochs: 12 runs, {counts}\n" in capsys.readouterr().out
    searching = Searching(spec, [])
    lost = {name for name, value in searching.scores()[0].items() if value is None}
    assert lost == {trial.name for trial in searching.trials if trial.settings["optim.lr"] > 1e-3}
    by_round = [sum(trial.name in lost for trial in searching.trials if trial.round == number) for number in range(3)]
    assert by_round[0] > by_round[2]
    assert not lost & searching.scores()[1].keys()


def test_a_space_that_is_exhausted_and_settings_that_no_config_takes_end_the_search(
    tmp_path: Path, trained: tuple[list[str], list[Train]], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(tmp_path, space={"optim.lr": [1e-3, -1.0], "loss": ["dice", "focal"]})
    assert search.command([str(spec)]) == 0
    assert "passed over: " in (errors := capsys.readouterr().err)
    assert "-1.0" in errors or "optim.lr" in errors
    drawn = {(trial.settings["optim.lr"], trial.settings["loss"]) for trial in Searching(spec, []).trials}
    assert drawn == {(1e-3, "dice"), (1e-3, "focal")}
    assert errors.count("passed over") == 2, "each once"


@pytest.mark.law("L12")
@pytest.mark.parametrize("override", ["train.epochs=2", "optim.lr=1e-3"])
def test_what_the_search_sets_cannot_be_set_on_the_command_line(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}: is set by the search"):
        Searching(write(tmp_path), [override])


@pytest.mark.law("L6")
def test_runs_of_other_settings_or_epochs_are_refused(tmp_path: Path, trained: tuple[list[str], list[Train]]) -> None:
    assert search.command([str(write(tmp_path, trials=3, at_once=3))]) == 0
    for changes in ({"epochs": [1, 8]}, {"overrides": {"runs_dir": str(tmp_path / "runs"), "optim.clip_norm": 1.0}}):
        with pytest.raises(RunError, match=r"not 8; give the search another name|this run has optim.clip_norm"):
            search.command([str(write(tmp_path, trials=4, at_once=3, **changes))])


def test_numbers_keep_to_the_grid_of_their_step_and_tell_narrow_intervals_apart(tmp_path: Path) -> None:
    space = {"optim.ema": {"low": 0.99, "high": 0.9999}, "data.mixup": {"low": 0.0, "high": 1.0, "step": 0.0625}}
    spec = read_search(write(tmp_path, space=space))
    trials: list[Trial] = []
    for _ in range(3):
        trials += proposals.draw(spec, 6, trials, [{trial.name: 0.5 for trial in trials}], lambda _: True)
    assert all((trial.settings["data.mixup"] / 0.0625).is_integer() for trial in trials)
    assert len({trial.settings["optim.ema"] for trial in trials}) > 12


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": [4, 4]}, "epochs: [4, 4]; each stage has more than the one before"),
        ({"space": {"train.epochs": [1, 2]}}, "space sets train.epochs, which the stages set"),
        ({"space": {"optim.lr": {"low": 2, "high": 1}}}, "low: 2 is not below high: 1"),
        ({"space": {"optim.lr": {"low": 0, "high": 1, "log": True}}}, "low: 0 has no logarithm"),
        ({"space": {"optim.lr": [1e-3]}}, "space.optim.lr"),
        ({"space": {"optim.rate": [1e-3, 1e-2]}, "epochs": [1]}, "optim.rate"),
        ({"trials": 0}, "trials"),
        ({"confirm": {"folds": [3]}}, "fold 3 is one of the search's"),
        ({"confirm": {"overrides": {"optim.lrr": 1}}}, "unknown key optim.lrr; did you mean optim.lr?"),
        ({"confirm": {"folds": [0, 7]}}, "confirm: variant reference: data.fold=7 does not exist with data.folds=5"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    code = run_command(search.command, [str(write(tmp_path, **changes))])
    errors = capsys.readouterr().err
    assert code == 2 or ("passed over" in errors and code == 1), errors
    assert sentence in errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("error", [NoFoldLeft, BaselineIsBest, ConfigError, RunError])
def test_only_that_there_is_nothing_to_confirm_ends_a_search_well(
    tmp_path: Path, trained: tuple[list[str], list[Train]], monkeypatch: pytest.MonkeyPatch, error: type[SegtrainError]
) -> None:
    def refuses(*_: object) -> None:
        raise error("a reason")

    monkeypatch.setattr(confirm, "of_search", refuses)
    spec = write(tmp_path, trials=3, at_once=3, folds=[3])
    code = run_command(search.command, [str(spec)])
    assert code == (0 if error in (NoFoldLeft, BaselineIsBest) else 2)


def test_trials_of_another_space_are_refused_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    spec = read_search(write(tmp_path))
    file = tmp_path / TRIALS
    settings: dict[str, Any] = {"optim.lr": 1e-3, "model.features": 8, "loss": "dice"}
    file.write_text(json.dumps({"round": 0, "settings": settings}) + "\n{half")
    assert read_trials(tmp_path, spec) == [Trial(0, settings)]
    for change in ({"loss": "focal"}, {"optim.lr": 1.0}, {"model.features": 4.5}, {"optim.lr": True}, {"seed": 1}):
        file.write_text(json.dumps({"round": 0, "settings": settings | change}) + "\n")
        with pytest.raises(RunError, match="which is not of the spec's space; give the search another name"):
            read_trials(tmp_path, spec)
    file.write_text('{"round": "one", "settings": {}}\n')
    with pytest.raises(RunError, match=f"{TRIALS}: cannot be read"):
        read_trials(tmp_path, spec)


def test_what_is_drawn_depends_on_the_seed_the_round_and_the_scores_alone(tmp_path: Path) -> None:
    spec = read_search(write(tmp_path))
    first = proposals.draw(spec, 6, [], [{}, {}], lambda _: True)
    assert first == proposals.draw(spec, 6, [], [{}, {}], lambda _: True)
    scores: dict[str, float | None] = {trial.name: place / 10 for place, trial in enumerate(first)}
    other = {name: 1 - (value or 0) for name, value in scores.items()}
    second = proposals.draw(spec, 6, first, [scores, {}], lambda _: True)
    assert second == proposals.draw(spec, 6, first, [scores, {}], lambda _: True)
    assert second != proposals.draw(spec, 6, first, [other, {}], lambda _: True)
    assert not {trial.name for trial in first} & {trial.name for trial in second}


@pytest.mark.parametrize("keys", [1, 2, 4])
@pytest.mark.parametrize("first", [6, 9], ids=["some passed over", "all fit"])
def test_every_round_after_the_first_learns_from_the_scores(tmp_path: Path, keys: int, first: int) -> None:
    """Also once a later stage has some: it gets a third of a round's trials."""
    rate = SPACE["optim.lr"]
    space = {"optim.lr": rate, "loss": SPACE["loss"], "optim.weight_decay": rate, "optim.clip_norm": rate}
    spec = read_search(write(tmp_path, space=dict(list(space.items())[:keys]), at_once=9))
    trials: list[Trial] = []
    scores: list[dict[str, float | None]] = [{}, {}]
    for number in range(5):
        count = 9 if number else first
        new = proposals.draw(spec, count, trials, scores, lambda _: True)
        inverted: list[proposals.Scores] = [{name: 1 - (of[name] or 0) for name in of} for of in scores]
        other = proposals.draw(spec, count, trials, inverted, lambda _: True)
        assert (other != new) == (number > 0), number
        trials += new
        scores[0] |= {trial.name: 0.5 + 10 * trial.settings["optim.lr"] for trial in new}
        scores[1] |= {trial.name: scores[0][trial.name] for trial in better(new, scores[0], spec.keep)}


def test_the_names_of_trials_are_the_same_everywhere() -> None:
    """They are names of folders, which other versions must find."""
    assert Trial(0, {"optim.lr": 0.00123, "loss": "dice"}).name == "t1e22505a"
    assert Trial(3, {"loss": "dice", "optim.lr": 0.00123}).name == "t1e22505a"
    assert Interval(1, 3).whole
    assert not Interval(1, 3.0).whole


def test_at_least_one_goes_on_and_none_without_a_score() -> None:
    trials = [Trial(0, {"x": place}) for place in range(5)]
    scores: list[float | None] = [0.1, None, 0.3, 0.3, None]
    by_name = dict(zip([trial.name for trial in trials], scores, strict=True))
    assert better(trials, by_name, 3) == [trials[2], trials[3]]
    assert better(trials, by_name, 9) == [trials[2]]
    assert better(trials, dict.fromkeys(by_name), 2) == []


@pytest.mark.law("L12")
def test_without_optuna_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match="pip install optuna"):
        Searching(write(tmp_path), []).next()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "search").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_searches_that_are_shipped_open_with_their_command_and_can_be_drawn(path: Path) -> None:
    assert path.read_text().startswith(f"# segtrain search configs/search/{path.name}")
    stage = Searching(path, [f"runs_dir={path.parent / 'none'}", "data.root=/data/kaggle_3m"]).next(keep=False)
    assert stage is not None
    assert len(stage.members) == len(stage.due) > 1
