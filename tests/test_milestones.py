"""The first, best and last events of a run, from the ends of metrics.jsonl: the same as from all of it."""

import random
from pathlib import Path

import pytest
from made_runs import evaluation_event, train_event

from segtrain.run import Run, milestones
from segtrain.run.events import Event, TrainEvent, from_line, to_line
from segtrain.run.milestones import milestones_in, milestones_of


def training(generator: random.Random, epochs: int) -> list[Event]:
    """The events of a training, the best as it marks them."""
    events: list[Event] = []
    best = -1.0
    for epoch in range(1, epochs + 1):
        events += [train_event(10 * epoch - left) for left in range(generator.randrange(5))]
        if generator.random() < 0.8:
            dsc = round(generator.random(), 1)  # often two of the same
            events.append(evaluation_event(10 * epoch, epoch, dsc, best=dsc > best))
            best = max(best, dsc)
    return events


@pytest.mark.parametrize("block_bytes", [1, 64, 1 << 16])
def test_they_are_those_among_all_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(milestones, "BLOCK_BYTES", block_bytes)
    generator = random.Random(block_bytes)
    file = tmp_path / "metrics.jsonl"
    for epochs in (0, 1, 2, 3, 5, 8, 13):
        events = training(generator, epochs)
        file.write_text("".join(map(to_line, events)) + generator.choice(["", '{"event": "tra', "\n\n"]))
        assert milestones_in(file) == milestones_of(events)


def test_evaluations_that_nobody_marked_are_all_looked_at(tmp_path: Path) -> None:
    """As in runs that were put together by hand."""
    events: list[Event] = [
        evaluation_event(step, step, dsc, best=False) for step, dsc in ((1, 0.2), (2, 0.9), (3, 0.4))
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(map(to_line, events)))
    assert milestones_in(file) == milestones_of(events)


def test_a_long_run_is_read_at_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    epoch = [*(to_line(train_event(step)) for step in range(1000)), to_line(evaluation_event(1000, 1, 0.5))]
    run.metrics.write_text("".join(epoch * 50))
    parsed: list[bytes] = []

    def counted(line: bytes) -> Event | None:
        parsed.append(line)
        return from_line(line)

    monkeypatch.setattr(milestones, "from_line", counted)
    reached = run.milestones()
    assert isinstance(reached.last_train, TrainEvent)
    assert len(parsed) < 10, "of 50,050 lines"
