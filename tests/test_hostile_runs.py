"""A run that is damaged, hostile or odd costs its own row, with the reason; the others are shown as ever."""

import csv
import io
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hostile_runs import JSON_FILES, KINDS, ODD_NAME, WAYS, Way, event, good, holds, many_links, odd_copies, png
from made_runs import train, train_event

from jobs import overview, status
from jobs.offline import archive, sync
from jobs.offline.location import locate
from segtrain.report.collect import Collected, collect
from segtrain.report.further import further_scores
from segtrain.report.texts import say_in
from segtrain.report.write import make
from segtrain.run import Run
from segtrain.run.events import evaluations

NOW_S = time.time() + 3600
DAMAGES = {
    **{f"{kind}-{file.partition('.')[0]}": (KINDS[kind](file), file) for kind in KINDS for file in JSON_FILES},
    **WAYS,
}
# Damage that is none to this file: a metrics.jsonl without a whole line has no events yet, and YAML is more than JSON.
NO_DAMAGE = {f"{kind}-metrics" for kind in ("cut", "empty", "no-json", "zeros", "latin")}
PATIENTS = "patient,slices,voxels,tp,fp,fn,dsc,dsc_all_components\n"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good runs, and the copy of one that is made hostile."""
    folder = tmp_path_factory.mktemp("pristine")
    for name in ("a-seed1", "c-seed1"):
        good(folder / "runs" / name)
    good(folder / "b-seed1")
    return folder


@pytest.fixture
def runs(pristine: Path) -> Iterator[Path]:
    """The folder of the good runs and the copy, which is put back afterwards."""
    folder = pristine / "runs"
    hostile = folder / "b-seed1"
    shutil.copytree(pristine / "b-seed1", hostile)
    yield folder
    shutil.rmtree(hostile)
    for path in folder.glob("results.zip*"):
        path.unlink()


def rows(runs: Path) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in overview.rows(runs, NOW_S)}


def facts(one: Collected) -> dict[str, Any]:
    return asdict(one) | {"people": {}}


@pytest.fixture(scope="module")
def as_ever(pristine: Path) -> dict[str, Any]:
    """What is told of the good runs where there is no other."""
    folder = pristine / "runs"
    packed = archive.write(folder)
    assert packed is not None
    with zipfile.ZipFile(packed.file) as pack:
        names = {name: pack.read(name) for name in pack.namelist()}
    packed.file.unlink()
    return {
        "status": rows(folder),
        "report": {one.name: facts(one) for one in collect([folder])},
        "archive": names,
    }


def test_a_loss_that_diverges_is_no_damage(runs: Path, as_ever: dict[str, Any], tmp_path: Path) -> None:
    """As large as float32 has it."""
    event(val_loss=3.4e38)(Run(runs / "b-seed1"))
    expected = as_ever["status"]["a-seed1"]
    assert rows(runs)["b-seed1"]["state"] == expected["state"] == "finished"
    [one] = [one for one in collect([runs]) if one.name == "b-seed1"]
    assert one.reason == ""
    assert make([runs], tmp_path).exists()


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", [name for name in DAMAGES if name not in NO_DAMAGE])
def test_damage_costs_its_own_row_and_says_why(
    runs: Path, as_ever: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    way, reason = DAMAGES[name]
    way(Run(runs / "b-seed1"))
    shown = rows(runs)
    collected = {one.name: one for one in collect([runs])}
    mine = shown.pop("b-seed1", {})
    theirs = collected.pop("b-seed1", None)
    assert shown == as_ever["status"]
    assert {each: facts(one) for each, one in collected.items()} == as_ever["report"]
    told = [mine.get("why"), mine.get("trouble"), theirs.reason if theirs else None, caplog.text]
    assert reason in " ".join(filter(None, told)), told
    assert theirs is None or not theirs.counts or name.endswith(("-split", "-config"))


@pytest.mark.parametrize("name", [*DAMAGES])
def test_damage_costs_the_archive_and_the_mirror_no_other_run(
    runs: Path, as_ever: dict[str, Any], name: str, tmp_path: Path
) -> None:
    DAMAGES[name][0](Run(runs / "b-seed1"))
    packed = archive.write(runs)
    assert packed is not None
    assert all("b-seed1" in path.parts for path in packed.left_out)
    with zipfile.ZipFile(packed.file) as pack:
        names = {name: pack.read(name) for name in pack.namelist()}
    assert {each: content for each, content in names.items() if "/b-seed1/" not in each} == as_ever["archive"]
    sync.push(locate(str(tmp_path / "mirror")), runs / "b-seed1")


def test_a_report_over_all_damages_compares_the_good_runs_as_ever(pristine: Path, tmp_path: Path) -> None:
    before = make([pristine / "runs"], tmp_path / "before")
    folder = tmp_path / "runs"
    shutil.copytree(pristine / "runs", folder)
    for name, (way, _) in DAMAGES.items():
        if name not in NO_DAMAGE and not name.endswith(("-split", "-config")):
            shutil.copytree(pristine / "b-seed1", folder / f"b-{name}-seed1")
            way(Run(folder / f"b-{name}-seed1"))
    page = make([folder], tmp_path / "out")
    results = [list(csv.DictReader(io.StringIO((one.parent / "results.csv").read_text()))) for one in (before, page)]
    assert results[0] == results[1]
    listed = page.with_name("report.md").read_text()
    missing = [name for name in WAYS if f"b-{name}-seed1 | unreadable |" not in listed]
    assert not missing


def test_status_prints_every_damage(pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (way, _) in DAMAGES.items():
        shutil.copytree(pristine / "b-seed1", tmp_path / name)
        way(Run(tmp_path / name))
    assert status.command([str(tmp_path)]) == 0
    capsys.readouterr()
    assert status.command([str(tmp_path), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert DAMAGES.keys() == {row["run"] for row in tree}


@pytest.mark.parametrize(
    ("way", "left_out"),
    [
        (holds("validation/epoch-0003.png", png(9_000, 9_000)), "9000 x 9000 pixels"),
        (holds("validation/epoch-0003.png", png(30_000, 30_000)), "900000000 pixels"),
        (holds("validation/epoch-0003.png", png(60, 60)[:60]), "epoch-0003.png: cannot be read"),
        (KINDS["pipe"]("validation/epoch-0003.png"), "a pipe or a device"),
        (KINDS["itself"]("validation/epoch-0003.png"), "symbolic links"),
        (KINDS["endless"]("validation/epoch-0003.png"), "a pipe or a device"),
    ],
    ids=["bomb", "larger", "cut", "pipe", "itself", "endless"],
)
def test_a_picture_that_cannot_be_shown_is_left_out_with_the_reason(
    runs: Path, tmp_path: Path, way: Way, left_out: str
) -> None:
    way(Run(runs / "b-seed1"))
    page = make([runs], tmp_path / "out").read_text()
    assert page.count("data:image/webp") == 5, "two of each good run, and the other one"
    assert left_out in page


@pytest.mark.parametrize("way", [odd_copies, many_links], ids=["copies", "links"])
def test_odd_copies_and_links_are_passed_over(pristine: Path, tmp_path: Path, way: Way) -> None:
    shutil.copytree(pristine / "runs", tmp_path / "runs")
    folder = tmp_path / "runs"
    before = rows(folder), [facts(one) for one in collect([folder])], Run(folder / "a-seed1").pointed_checkpoints()
    way(Run(folder / "a-seed1"))
    (folder / "circle").symlink_to(".")
    (folder / "again").symlink_to("a-seed1")
    (folder / "root").symlink_to("/")
    assert {name: row for name, row in rows(folder).items() if name in before[0]} == before[0]
    assert [facts(one) for one in collect([folder])] == before[1]
    assert Run(folder / "a-seed1").pointed_checkpoints() == before[2]
    assert Run(folder / "a-seed1").saved_steps() == [30]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("x" * 200_000, "field larger than field limit"),
        (f"{PATIENTS}{'p' * 20_000},3,9,5,1,4,0.9,0.5\n", "a cell of more than 10000 letters"),
        (f"{PATIENTS}p0,3,9\n", "row 2 has more or fewer cells"),
        (f"{PATIENTS}p0,3,9,5,1,4,1e400,0.5\n", '"1e400" is no finite number'),
    ],
)
def test_a_table_of_scores_that_is_none_costs_its_run_its_place(runs: Path, table: str, reason: str) -> None:
    Run(runs / "b-seed1").validation_table(3).write_text(table)
    one = next(one for one in collect([runs]) if one.name == "b-seed1")
    assert (one.state, one.counts) == ("unreadable", False)
    assert reason in one.reason


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"cut"}))
@pytest.mark.parametrize("file", ["ranks/0.json", "../.jobs/b-seed1/starts.jsonl"])
def test_what_jobs_leave_of_a_run_costs_it_no_more_than_a_word(
    runs: Path, as_ever: dict[str, Any], kind: str, file: str
) -> None:
    run = Run(runs / "b-seed1")
    (run.root / file).parent.mkdir(parents=True)
    KINDS[kind](file)(run)
    shown = rows(runs)
    shutil.rmtree((run.root / file).parent)
    mine = shown.pop("b-seed1")
    assert shown == as_ever["status"]
    assert mine["state"] == "finished"
    is_told = not (file.endswith("l") and kind in ("empty", "no-json", "zeros", "number", "null"))
    assert (Path(file).name in (mine["trouble"] or "")) == is_told


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("file", ["scores.csv", "summary.json"])
def test_damaged_scores_of_an_evaluation_cost_their_own_table(
    runs: Path, tmp_path: Path, kind: str, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(runs / "b-seed1")
    folder = run.evaluation("validation", "last")
    folder.mkdir(parents=True)
    for name in ("scores.csv", "summary.json"):
        (folder / name).write_text("patient,trained_on\n" if name == "scores.csv" else "{}")
    KINDS[kind](f"evaluation/{folder.name}/{file}")(run)
    say = say_in("en")
    assert not further_scores({"b": [one for one in collect([runs]) if one.name == run.root.name]}, say).tables
    assert "no scores that a report could show" in caplog.text


def test_names_in_other_encodings_are_shown_and_packed(pristine: Path, tmp_path: Path) -> None:
    """Of folders and of patients: bytes that are no UTF-8, halves of letters, control characters."""
    odd = tmp_path / "runs" / f"{ODD_NAME}-seed1"
    shutil.copytree(pristine / "runs", odd.parent)
    patients = ("a\x1b[31mb", "c\x00d", "e<script>", "f" * 9000)
    run = train(odd, patients=patients)
    event = evaluations(run.events())[-1]
    run.metrics.unlink()
    run.record(train_event(10))
    run.record(replace(event, empty_masks="half a letter: \ud800", step=30, epoch=3))
    page = make([odd.parent], tmp_path / "out")
    assert "e<script>" not in page.read_text()
    assert [one.variant for one in collect([odd.parent]) if one.counts] == ["a", "c", ODD_NAME]
    packed = archive.write(odd.parent)
    assert packed is not None
    assert not packed.left_out
    with zipfile.ZipFile(packed.file) as pack:
        assert len({name.split("/")[1] for name in pack.namelist()}) == 3
    command = [sys.executable, "-m", "jobs.status", str(odd.parent)]
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", errors="replace")
    assert "3 runs: 3 finished" in done.stdout
