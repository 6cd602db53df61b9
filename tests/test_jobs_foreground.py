"""A queue in the foreground, as `segtrain ablate` and `--executor local` run it. With stand-ins for trainings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from queues import StandIns

from jobs import submission
from jobs.queue import foreground
from jobs.queue.items import Item
from jobs.resources import Resources
from jobs.submission import Submission
from segtrain.config import Config, StopConfig, load_config
from segtrain.errors import EXIT_STOPPED, StopReason
from segtrain.run import Outcome

NAMES = ("one", "two", "three")


@pytest.fixture
def submitted(tmp_path: Path, tiny: Config) -> Submission:
    """Three runs, none of which has begun."""
    configs = [replace(tiny, name=name, runs_dir=str(tmp_path / "runs" / "spec")) for name in NAMES]
    return submission.create(str(tmp_path / "runs"), "spec", configs, Resources(), members=[])


def items(submitted: Submission) -> Sequence[Item]:
    return [Item(name, load_config(submitted.config(name))) for name in NAMES]


@pytest.mark.law("L8")
@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"one": ["stop:STOP_FILE"]}, ["one"]),
        ({"one": ["stop:DEADLINE", "vain"], "two": ["stop:STOP_FILE"]}, ["one", "one", "two"]),
    ],
)
def test_the_stop_file_of_a_run_ends_what_comes_after_it_here(
    submitted: Submission, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, words: dict[str, list[str]],
    names: list[str],
) -> None:  # fmt: skip
    """As a signal does, whatever the reason's sentence says; a run that stopped by its own deadline goes on, and one
    that makes no progress lets the next."""
    monkeypatch.setattr(StopReason, "sentence", property(lambda reason: "the wish of somebody"))
    stand_ins.words |= words
    with foreground.listening() as stop:
        assert foreground.train(submitted, items(submitted), stop) == EXIT_STOPPED
    assert stand_ins.names == names


@pytest.mark.parametrize(("deadline", "starts"), [("1h", 2), ("2020-01-01T00:00", 1)])
def test_a_deadline_of_so_many_hours_ends_a_start_and_a_time_that_is_past_ends_all(
    submitted: Submission, stand_ins: StandIns, deadline: str, starts: int
) -> None:
    """What a start cannot outlive, no further start can."""
    stand_ins.words["one"] = ["stop:DEADLINE", "finish"]
    one, *others = items(submitted)
    assert one.cfg is not None
    one = replace(one, cfg=replace(one.cfg, stop=StopConfig(deadline)))
    with foreground.listening() as stop:
        code = foreground.train(submitted, [one, *others], stop)
    assert (code, stand_ins.names.count("one")) == (EXIT_STOPPED if starts == 1 else 0, starts)
    assert ("two" in stand_ins.names) == (starts == 2)


def test_a_run_that_is_to_start_over_is_started_though_it_is_finished(
    submitted: Submission, stand_ins: StandIns, tiny: Config
) -> None:
    run = submitted.run("one")
    run.root.mkdir(parents=True)
    (run.root / "config.yaml").write_text(submitted.config("one").read_text())
    run.end(Outcome("finished", 4, tiny.train.epochs, 0.5))
    for fresh, words, code, starts in ((False, "1", 0, 0), (True, "2", 2, 1), (True, "finish", 0, 2)):
        stand_ins.words["one"] = ["2", words]
        one = replace(items(submitted)[0], fresh=fresh)
        with foreground.listening() as stop:
            assert foreground.train(submitted, [one], stop) == code
        assert len(stand_ins.names) == starts
        (submitted.root / "journal.jsonl").unlink()  # of another submission


@pytest.mark.parametrize(
    ("ends", "worst", "left"),
    [
        (["finish", "2", "finish"], 2, 0),
        (["finish", "2", "1"], 1, 0),
        (["finish", "3", "finish"], 3, 0),
        (["2", "finish", "finish"], 2, 2),
    ],
)
def test_a_run_that_fails_after_others_worked_does_not_end_the_ablation(
    submitted: Submission, stand_ins: StandIns, caplog: pytest.LogCaptureFixture, ends: list[str], worst: int, left: int
) -> None:
    """The worst code comes back; only when the very first fails before it began, the rest is not tried."""
    stand_ins.words |= {name: [end] for name, end in zip(NAMES, ends, strict=True)}
    with foreground.listening() as stop, caplog.at_level("WARNING", "segtrain.queue"):
        assert foreground.train(submitted, items(submitted), stop) == worst
    assert stand_ins.names == list(NAMES[: len(NAMES) - left])
    assert ("; the others go on" in caplog.text) == (left == 0)
    assert ("the first run failed before it began" in caplog.text) == (left > 0)
