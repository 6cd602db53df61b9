"""The nodes of a start hear of each other by files that beat. No cluster."""

from pathlib import Path

import pytest
from slurm_programs import stand_in_clock

from jobs import node, rendezvous


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return stand_in_clock(monkeypatch, rendezvous)


def nodes(folder: Path, count: int = 2) -> list[rendezvous.Rendezvous]:
    """All nodes of a start, which have met."""
    every = [rendezvous.Rendezvous(folder / "start", index, count, f"n{index + 1}") for index in range(count)]
    for one in every:
        one.open()
        one.beat()
    for one in every:
        assert one.silent() == []
    return every


def test_a_node_that_falls_silent_is_noticed_by_one_that_looks_on(tmp_path: Path, clock: list[float]) -> None:
    first, second = nodes(tmp_path)
    quiet_s = 0.0
    while not (gone := first.silent()):
        clock[0] += rendezvous.STALLED_S / 2
        quiet_s += rendezvous.STALLED_S / 2
    assert (gone, quiet_s > rendezvous.SILENT_S, quiet_s < rendezvous.SILENT_S + rendezvous.STALLED_S) == (
        [1],
        True,
        True,
    )
    second.beat()
    assert first.silent() == []


def test_a_node_that_never_comes_is_given_up_by_the_first_one(tmp_path: Path, clock: list[float]) -> None:
    """SLURM may fail to start one task of a step, and leaves the others waiting."""
    first, second, _ = (rendezvous.Rendezvous(tmp_path / "start", index, 3, "n", 300.0) for index in range(3))
    for one in (first, second):
        one.open()
        one.beat()
    begun_s = clock[0]
    while not (gone := first.silent() or first.absent()):
        clock[0] += node.POLL_EVERY_S
        second.beat()
    assert gone == [2]
    assert 300 < clock[0] - begun_s < 301
    second.report(0, 1)
    assert first.missing(0, node.REPORT_S) == [2]
    assert clock[0] - begun_s < 302, "it is not waited for once more"


def test_a_node_has_its_time_to_come_anew_where_the_first_one_stood_still(tmp_path: Path, clock: list[float]) -> None:
    first = rendezvous.Rendezvous(tmp_path / "start", 0, 2, "n", 300.0)
    first.open()
    first.silent()
    clock[0] += 400.0
    assert (first.silent(), first.absent()) == ([], [])


@pytest.mark.parametrize("vanished", [True, False])
def test_a_node_that_is_known_to_be_gone_is_not_waited_for_once_more(
    tmp_path: Path, clock: list[float], vanished: bool
) -> None:
    """A start is over within a minute of the loss; a launcher of a node that lives gets its time to end."""
    first, second, third = nodes(tmp_path, 3)
    lost_s = clock[0]
    while vanished and not first.silent():
        clock[0] += node.POLL_EVERY_S
        third.beat()
    third.report(0, 1)
    asked_s = clock[0]
    assert first.missing(0, node.REPORT_S) == [second.index]
    waited_s = clock[0] - asked_s
    assert (waited_s < 1, clock[0] - lost_s < 50) == (True, True) if vanished else waited_s >= node.REPORT_S


def test_a_node_that_is_told_to_stop_does_not_look_for_the_others(tmp_path: Path, clock: list[float]) -> None:
    """SLURM kills the step soon after its signal: what becomes of the job must be decided before."""
    first, _ = nodes(tmp_path)
    asked_s = clock[0]
    assert first.missing(0, node.REPORT_S, lambda: clock[0] > asked_s + 1) == []
    assert clock[0] - asked_s < 2


def test_a_file_system_that_stalls_for_all_nodes_makes_none_of_them_dead(tmp_path: Path, clock: list[float]) -> None:
    first, second = nodes(tmp_path)
    clock[0] += 10 * rendezvous.SILENT_S
    assert (first.silent(), second.silent()) == ([], [])
    clock[0] += rendezvous.STALLED_S / 2
    assert first.silent() == []


def test_a_heartbeat_that_cannot_be_written_does_not_end_the_job(tmp_path: Path, clock: list[float]) -> None:
    first, second = nodes(tmp_path)
    second.folder, folder = tmp_path / "gone", second.folder
    clock[0] += rendezvous.BEAT_EVERY_S
    second.beat()
    second.folder = folder
    clock[0] += rendezvous.BEAT_EVERY_S
    second.beat()
    assert (folder / "beat-1").read_text() == "3"
    assert first.silent() == []


@pytest.mark.law("L14")
def test_a_folder_that_takes_no_beats_for_minutes_makes_no_node_dead(tmp_path: Path, clock: list[float]) -> None:
    """It is full, stale or read-only, on every node. One that has left meanwhile is noticed after that."""
    first, second = nodes(tmp_path)
    folder = first.folder

    def passes(seconds: float, *alive: rendezvous.Rendezvous) -> list[list[int]]:
        end_s, silent = clock[0] + seconds, []
        while clock[0] < end_s:
            clock[0] += 1.0
            for one in alive:
                one.beat()
            silent += [one.silent() for one in alive]
        return [one for one in silent if one]

    first.folder = second.folder = tmp_path / "no folder"
    assert passes(10 * rendezvous.SILENT_S, first, second) == []
    first.folder = second.folder = folder
    assert passes(2 * rendezvous.SILENT_S, first, second) == []
    first.folder = tmp_path / "no folder"
    assert passes(2 * rendezvous.SILENT_S, first) == []
    first.folder = folder
    assert passes(rendezvous.SILENT_S, first) == []
    assert passes(rendezvous.BEAT_EVERY_S + 2, first)[0] == [1]


def test_a_node_alone_does_not_beat(tmp_path: Path) -> None:
    assert [list(one.folder.iterdir()) for one in nodes(tmp_path, 1)] == [[]]
