"""Figures of one round of a peer, from the marks of its commands. Seconds by the clock and of CPU time."""

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.watch import Watched
from benchmarks.peers.work import Work

Pair = dict[str, float]  # "wall" and "cpu": seconds, or images a second


def _span(watched: Watched, begin: float, end: float) -> Pair:
    before, after = watched.moment(begin), watched.moment(end)
    return {"wall": after.at - before.at, "cpu": after.cpu_s - before.cpu_s}


def _sum(pairs: list[Pair]) -> Pair:
    return {clock: sum(pair[clock] for pair in pairs) for clock in ("wall", "cpu")}


def figures(work: Work, stages: Mapping[str, Watched]) -> dict[str, Any]:
    """What the rows show, by name; `stages` are the watched commands by stage, `train` among them;
    `whole` is one that does all of it, where there is one."""
    train = stages["train"]
    marks = train.marks

    def at(phase: str) -> list[dict[str, Any]]:
        return [mark for mark in marks if mark["phase"] == phase]

    first = at("first_step")[0]["at"]
    prepared = at("prepared")[0]["at"] if at("prepared") else None
    commands = [stages["whole"]] if "whole" in stages else list(stages.values())
    whole = _sum([{"wall": command.wall_s, "cpu": command.cpu_s} for command in commands])
    if "prepare" in stages:
        prepare = {"wall": stages["prepare"].wall_s, "cpu": stages["prepare"].cpu_s}
    else:
        assert prepared is not None, "a peer without a command that prepares marks when it has prepared"
        prepare = _span(train, train.began, prepared)
    loops, evaluations = _parts(train)
    images = at("trained")[-1]["images"] - work.batch
    loop = _sum(loops)
    scored = len(work.validation) * len(evaluations)
    return {
        "prepare": prepare,
        "start": _span(train, train.began, first),
        "rate": {clock: images / seconds for clock, seconds in loop.items()},
        "evaluate": {clock: seconds / scored for clock, seconds in _sum(evaluations).items()},
        "memory": {"gib": max(stage.peak_gib for stage in stages.values())},
        "whole": whole,
        "dsc": at("evaluated")[-1]["dsc"],
        "images": at("trained")[-1]["images"],
        "gflop": at("network")[0]["gflop"] if at("network") else None,
        "versions": {key: value for mark in at("versions") for key, value in mark["packages"].items()},
    }


def _parts(train: Watched) -> tuple[list[Pair], list[Pair]]:
    """The training parts of the epochs after the first step, and the evaluations."""
    loops, evaluations = [], []
    since = scoring = 0.0
    for mark in train.marks:
        if mark["phase"] in ("first_step", "resumed"):
            since = mark["at"]
        elif mark["phase"] == "trained":
            loops.append(_span(train, since, mark["at"]))
            scoring = mark["at"]
        elif mark["phase"] == "scoring":
            scoring = mark["at"]
        elif mark["phase"] == "evaluated":
            evaluations.append(_span(train, scoring, mark["at"]))
    return loops, evaluations
