"""Which runs a report counts, under which names, what they cost, and how they are paired."""

import csv
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import BufferedReader
from pathlib import Path

import pytest
from made_runs import HOSTILE, PATIENTS, train, train_event

from segtrain import text_file
from segtrain.config import Postprocessing
from segtrain.errors import RunError
from segtrain.report.collect import collect
from segtrain.report.cost import Cost, cost
from segtrain.report.statistics import compare
from segtrain.report.texts import say_in
from segtrain.report.trained import trained_tables
from segtrain.report.variants import by_variant, scores
from segtrain.report.write import make
from segtrain.run import (
    COLUMNS,
    ChosenPostprocessing,
    Effect,
    Environment,
    FoldMember,
    QueueLine,
    RegionChoice,
    Run,
    write_postprocessing,
    write_queue,
)
from segtrain.runtime.cells import csv_text


def test_what_a_run_costs() -> None:
    """Two starts an hour of waiting apart, by hand; what a kill undid left no event."""
    starts = [
        Environment(time="2026-01-01T10:00:00+0000", world_size=4, device="cuda:0"),
        Environment(time="2026-01-01T12:00:00+0000", world_size=2, device="cuda:0"),
        Environment(time="2026-01-01T15:00:00+0200", world_size=8, device="cpu"),
    ]
    ten = datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()
    events = [replace(train_event(1), time=ten + 3600 * hours) for hours in (0.5, 1.0, 2.25, 2.5, 3.75)]
    assert cost(starts, events) == Cost(1.0 + 0.5 + 0.75, 4 * 1.0 + 2 * 0.5, None, events[-1].time)
    assert cost(starts, []) == Cost(0.0, 0.0)


def test_runs_that_have_not_begun_are_listed(ablation: Path, tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "")
    names = ("base-fold0-seed1", "up-fold1-seed1", "gone-fold0-seed1", "../evil")
    states = ("finished", "none", "finished", "none")
    lines = [row | {"run": n, "variant": n[:4], "fold": "1", "seed": "1", "state": s}
             for n, s in zip(names, states, strict=True)]  # fmt: skip
    (ablation / "results.csv").write_text(csv_text(lines))
    make([tmp_path], tmp_path / "out", baseline="base")
    found = {run.name: run for run in collect([tmp_path]) if run.state == "none"}
    assert set(found) == {"up-fold1-seed1", "gone-fold0-seed1"}
    assert not any(run.counts for run in found.values())
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Runs: 7 (finished: 3, not begun: 2)" in report
    assert "| up-fold1-seed1 | not begun | listed in results.csv, never begun |" in report
    assert "| gone-fold0-seed1 | not begun | listed as finished, but " in report
    alone = collect([ablation / "base-fold0-seed1"])
    assert [run.name for run in alone] == ["base-fold0-seed1"], "who asks for one run is told of that one"
    (ablation / "results.csv").write_text("run,variant\nsomething,else\n")
    assert len(collect([ablation])) == 5, "a table that is none of an ablation's"


def queue_says(folder: Path, *lines: tuple[str, str, str, str]) -> None:
    write_queue(folder, [QueueLine(*line) for line in lines])


def test_what_a_queue_says_of_its_runs_is_told(ablation: Path, tmp_path: Path) -> None:
    """Of one that never began, of one that was killed; not of one that has been started again since."""
    later = datetime.now(UTC).isoformat()
    bad, killed = ablation / "bad-fold0-seed1", ablation / "slow-fold0-seed1"
    queue_says(
        ablation, (bad.name, "refused", later, "optim.lrr: no such key"), ("../evil", "refused", later, "evil"),
        (killed.name, "failed", later, "killed by SIGKILL"), ("up-fold0-seed1", "failed", later, "long ago"),
    )  # fmt: skip
    for asked in ([ablation], [killed, bad, ablation / "up-fold0-seed1"]):
        make(asked, tmp_path / "out")
        report = (tmp_path / "out" / "report.md").read_text()
        assert f"| {bad.name} | not begun | optim.lrr: no such key |" in report
        assert f"| {killed.name} | failed | killed by SIGKILL |" in report
        assert "long ago" not in report, "it has finished, whatever was said"
        assert "evil" not in report
    assert [run.variant for run in collect([ablation]) if run.state == "none"] == ["bad"]
    queue_says(ablation, (killed.name, "due", later, "killed by SIGKILL"))
    [again] = collect([killed])
    assert (again.state, again.reason) == ("running", "killed by SIGKILL")
    queue_says(ablation, (killed.name, "failed", "2020-01-01T00:00:00+00:00", "killed by SIGKILL"))
    [again] = collect([killed])
    assert (again.state, again.reason) == ("running", ""), "it was started again since"
    with pytest.raises(RunError, match="no run is there"):
        collect([killed, bad])
    queue_says(ablation, (bad.name, "refused", later, "optim.lrr: no such key"))
    with pytest.raises(RunError, match="has not begun"):
        collect([bad])


def test_what_counts_and_which_epoch(ablation: Path) -> None:
    runs = collect([ablation])
    baseline, groups = by_variant(runs, "base")
    assert (baseline, {name: len(own) for name, own in groups.items()}) == ("base", {"base": 2, "up": 1})
    states = {run.variant: (run.state, run.reason) for run in runs if not run.counts}
    assert states == {"lost": ("diverged", f"loss is nan {HOSTILE}"), "slow": ("running", "")}
    up = groups["up"][0]
    assert up.last is not None
    assert up.best is not None
    assert (up.best.epoch, up.last.epoch, up.images_per_s) == (1, 3, 17.5)
    assert scores([up]) == pytest.approx({(p, 0, 1): 0.75 + 0.01 * place for place, p in enumerate(PATIENTS)})
    assert up.curves is not None
    assert dict(up.curves.loss) == pytest.approx(
        {1.0: (1 / 5 + 1 / 10) / 2, 2.0: (1 / 15 + 1 / 20) / 2, 3.0: (1 / 25 + 1 / 30) / 2}, rel=1e-15, abs=0
    )


@pytest.mark.law("L10")
def test_a_variant_is_paired_by_its_patients(ablation: Path, tmp_path: Path) -> None:
    """Whatever the seeds: by the patients' means over each variant's own trainings."""
    train(ablation / "up-fold1-seed7", 0.1, patients=("other0", "other1"))
    (ablation / "up-fold1-seed7").rename(ablation / "unnamed")
    train(ablation / "alone-fold0-seed3", 0.05)
    make([ablation], tmp_path / "out", baseline="base")
    rows = {row["variant"]: row for row in csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())}
    assert {name: (row["pairs"], row["paired_by"]) for name, row in rows.items()} == {
        "base": ("", ""), "up": ("6", "patients' means"), "unnamed": ("2", "patients' means"),
        "alone": ("6", "patients' means"),
    }  # fmt: skip
    table = (tmp_path / "out" / "report.md").read_text()
    assert table.count("| no verdict, one training each") == 2
    assert table.count("| no verdict, fewer than 4 patients (n = 2) |") == 1
    unnamed, up = (next(run for run in collect([ablation]) if run.variant == name) for name in ("unnamed", "up"))
    assert (unnamed.fold, unnamed.seed, up.fold, up.seed) == (1, 7, 0, 1)


def test_two_names_that_say_nothing_have_the_seeds_of_their_configs(tmp_path: Path) -> None:
    for name, shift in (("one-seed1", 0.0), ("two-seed1", 0.05), ("three-seed2", 0.05)):
        train(tmp_path / name, shift).root.rename(tmp_path / name[:3])
    _, groups = by_variant(collect([tmp_path]), "one")
    seeds = {variant: {seed for _, _, seed in scores(own)} for variant, own in groups.items()}
    assert seeds == {"one": {1}, "two": {1}, "thr": {2}}
    rows = compare({variant: scores(own) for variant, own in groups.items()}, "one")
    assert [row.difference.summary.n for row in rows if row.difference] == [6, 6]


@pytest.mark.parametrize(("name", "misnamed"), [("up-fold0-seed1", 0), ("up-fold1-seed1", 1), ("up-fold0-seed2", 1)])
def test_a_name_that_the_config_contradicts_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, misnamed: int
) -> None:
    train(tmp_path / "up-fold0-seed1").root.rename(tmp_path / name)
    report = make([tmp_path], tmp_path / "out").with_name("report.md").read_text()
    assert report.count(f"those of the names are used: {name}.") == misnamed
    assert caplog.text.count("trained on fold 0 with seed 1; its name's fold and seed are used") == misnamed


def test_names_without_a_variant_are_variants_and_doubled_names_get_their_folder(
    ablation: Path, tmp_path: Path
) -> None:
    train(tmp_path / "mine")
    shutil.copytree(ablation / "up-fold0-seed1", tmp_path / "again" / "up-fold0-seed1")
    runs = collect([tmp_path / "mine", ablation / "up-fold0-seed1", tmp_path / "again", tmp_path / "mine"])
    variants = {(run.variant.split("/")[-1], run.fold, run.seed) for run in runs}
    assert variants == {("mine", None, 42), ("up", 0, 1)}
    assert len({run.variant for run in runs}) == len(runs) == 3


def test_doubled_names_get_as_many_folders_as_they_need(tmp_path: Path) -> None:
    for above, shift in (("a", 0.0), ("b", 0.05)):
        train(tmp_path / above / "runs" / "dice-seed1", shift)
    runs = collect([tmp_path / "a" / "runs", tmp_path / "b" / "runs"])
    found = {run.variant: scores([run])["patient0", None, 1] for run in runs}
    assert found == {"a/runs/dice": 0.7, "b/runs/dice": 0.75}


@pytest.mark.law("L10")
def test_one_score_does_not_stand_in_for_another(ablation: Path, tmp_path: Path) -> None:
    train(ablation / "up-fold0-seed01", 0.1)
    with pytest.raises(RunError, match="patient0 was also scored by another run of up with the same fold and seed"):
        make([ablation], tmp_path / "out", baseline="base")
    assert not (tmp_path / "out").exists()


def test_a_run_set_aside_is_left_out_and_a_damaged_one_says_so(ablation: Path, tmp_path: Path) -> None:
    shutil.copytree(ablation / "up-fold0-seed1", ablation / "up-fold0-seed1.1")
    Run(ablation / "base-fold1-seed1").validation_table(3).write_text("patient,dsc\nother0,no number\n")
    Run(ablation / "base-fold0-seed1").validation_picture(3).write_bytes(b"cut")
    with Run(ablation / "up-fold0-seed1").metrics.open("a") as file:
        file.write('{"event": "tra')
    (ablation / "up-fold0-seed1" / "config.yaml").write_text("of_the_past: 1\n")
    make([ablation], tmp_path / "out", baseline="base")
    rows = {run.name: run for run in collect([ablation])}
    assert "up-fold0-seed1.1" not in rows
    assert rows["base-fold1-seed1"].state == "unreadable"
    assert "no number" in rows["base-fold1-seed1"].reason
    assert rows["up-fold0-seed1"].counts, "scores stay scores when a config no longer loads"


@pytest.mark.parametrize("content", ["{", "5", "[1]", "[]"])
def test_a_run_whose_starts_cannot_be_read_is_listed_and_does_not_count(ablation: Path, content: str) -> None:
    Run(ablation / "up-fold0-seed1").environment_file.write_text(content)
    runs = {run.name: run for run in collect([ablation])}
    damaged = runs["up-fold0-seed1"]
    assert len(runs) == 5
    assert (damaged.state, damaged.counts) == ("unreadable", False)
    assert "environment.json" in damaged.reason or content == "5"


def test_post_processing_is_told_with_and_without(ablation: Path, tmp_path: Path) -> None:
    """Settings, evidence, and the DSC of the run's own patients, who had no part in the choice."""
    run = Run(ablation / "base-fold0-seed1")
    configured, best = Postprocessing(0.5, True, 0), Postprocessing(0.4, False, 10)
    choice = RegionChoice(best, configured, best, 12, 0.7, 0.75, 0.03, 0.01, 0.05)
    member = FoldMember(run.root.name, 0, "step-00000030", "0")
    chosen = ChosenPostprocessing(
        (member,), (FoldMember("b", 1, "step-00000030", "1"),), ("q",), "none", 126, "best", {"lesion": choice}
    )
    effects = [Effect(PATIENTS[0], "lesion", 0.8, 0.7), Effect(PATIENTS[1], "lesion", 0.9, 0.9)]
    write_postprocessing(run, chosen, chosen, effects)
    make([ablation], tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    row = next(line for line in report.splitlines() if "above 0.4, from 10 voxels, all components" in line)
    assert "above 0.5, largest component" in row
    assert "12 people of folds 1" in row
    assert r"+0.0300 \[+0.0100, +0.0500\]" in row
    assert "| 2 | 0.8000 | 0.8500 | +0.0500" in row
    assert "chosen with an earlier checkpoint" in row, "no checkpoint of this run is that one"
    run.postprocessing_settings.write_text("{")
    make([ablation], tmp_path / "out")
    assert "Post-processing" not in (tmp_path / "out" / "report.md").read_text()


def test_the_split_of_a_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2):
        train(tmp_path / "runs" / f"base-seed{seed}")
    read: list[str] = []
    open_file = text_file.open_file

    def counted(path: Path) -> BufferedReader:
        read.append(path.name)
        return open_file(path)

    monkeypatch.setattr(text_file, "open_file", counted)
    make([tmp_path / "runs"], tmp_path / "out")
    assert read.count("split.json") == 2
    assert "0 train, 6 validate" in (tmp_path / "out" / "report.md").read_text()


def test_runs_of_other_zones_are_in_the_order_of_the_instant(tmp_path: Path) -> None:
    """Ten o'clock in Tokyo is before two o'clock in Greenwich, in whose zone no run of Tokyo ends."""
    times = {"late": "2026-11-30T02:00:00+0000", "early": "2026-11-30T10:00:00+0900", "odd": "yesterday", "next": ""}
    for variant, at in times.items():
        run = train(tmp_path / f"{variant}-fold0-seed1")
        (start,) = json.loads(run.environment_file.read_text())
        run.environment_file.write_text(json.dumps([start | {"time": at}]))
    runs = collect([tmp_path])
    assert [run.variant for run in runs] == ["early", "late", "odd", "next"]
    ((shared, *_), *_) = [trained_tables(runs, say_in("en"))]
    cost = runs[0].cost
    assert cost is not None
    ended = datetime.fromtimestamp(cost.ended_s, timezone(timedelta(hours=9))).strftime("%Y-%m-%d %H:%M+09:00")
    assert {row[0].text: row[1].text for row in shared.rows}["dates"] == f"2026-11-30 10:00+09:00 / {ended}"
