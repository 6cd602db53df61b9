"""The command that confirms a search, and what the reports of both say."""

import csv
import shlex
from html import unescape
from pathlib import Path

import pytest
import yaml
from searches import PATIENTS, SHIFTS, SPEC, confirmed, searched, trained, write

from jobs import ablate
from segtrain.data.folds import fold_of
from segtrain.report.collect import collect
from segtrain.report.measurement import comparables
from segtrain.report.texts import TEXTS, Language, say_in
from segtrain.report.write import make
from segtrain.run import read_record, write_record

SEARCH = {"chosen": "focal", "variants": 3, "search": "search", "folds": "3, 4"}


@pytest.mark.law("L10")
@pytest.mark.parametrize("language", TEXTS)
def test_the_report_of_a_search_prints_the_command(tmp_path: Path, language: Language) -> None:
    path = write(tmp_path)
    searched(path, ("--nproc", "2", "--dry-run"))
    page = make([tmp_path / "runs" / "search"], tmp_path / "out", language, baseline="dice").read_text()
    command = f"cd {shlex.quote(str(Path.cwd()))} &amp;&amp; segtrain ablate --nproc 2 {path} --confirm"
    assert command in page
    assert "0, 1, 2" in page


def test_the_report_of_a_search_on_all_folds_says_that_none_is_left(tmp_path: Path) -> None:
    searched(write(tmp_path, SPEC.replace("[3, 4]", "[0, 1, 2, 3, 4]")))
    make([tmp_path / "runs" / "search"], tmp_path / "out", baseline="dice")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "focal is the best of 3 variants" in text
    assert "No fold is left to confirm it." in text


@pytest.mark.law("L1")
def test_the_report_of_a_confirmation_names_the_search(tmp_path: Path) -> None:
    searched(write(tmp_path))
    confirmation = confirmed(tmp_path / "spec.yaml")
    runs = [trained(member, SHIFTS[member.variant]) for member in confirmation.members]
    folder = runs[0].root.parent
    write_record(folder, confirmation.record)
    text = make([folder], tmp_path / "out", baseline="dice").read_text()
    here = sum(fold_of(patient, 5, 42) in (0, 1, 2) for patient in PATIENTS)
    assert (
        f"focal was chosen from 3 variants by the search search ({tmp_path / 'runs' / 'search'}), on {30 - here} "
        f"patients of folds 3, 4. None of the {here} patients below took part in choosing it"
    ) in text
    assert "Best of" not in text, "it was chosen before"
    page = make([tmp_path / "runs" / "search"], tmp_path / "out", baseline="dice").read_text()
    assert f"that of the confirmation, {folder}." in page
    search = confirmation.record.search
    assert search is not None
    moved = next(iter(search.patients))
    table = runs[0].validation_table(3)
    first = table.read_text().splitlines()[1].partition(",")[0]
    table.write_text(table.read_text().replace(f"{first},", f"{moved},"))
    make([folder], tmp_path / "out", baseline="dice")
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"Not a confirmation: 1 patients took part when the search search chose focal: {moved}." in text
    assert "took part in choosing it" not in text


@pytest.mark.law("L1")
@pytest.mark.parametrize("language", TEXTS)
def test_a_report_over_both_pools_nothing_of_them(tmp_path: Path, language: Language) -> None:
    searched(write(tmp_path))
    confirmation = confirmed(tmp_path / "spec.yaml")
    for member in confirmation.members:
        trained(member, SHIFTS[member.variant])
    folder = tmp_path / "runs" / "search-confirm"
    write_record(folder, confirmation.record)
    (folder / "focal-fold0-seed42" / "config.yaml").write_text("[")  # of the variant that the search has, too
    text = unescape(make([tmp_path / "runs"], tmp_path / "out", language, baseline="dice").read_text())
    here = sum(fold_of(patient, 5, 42) in (0, 1, 2) for patient in PATIENTS)
    rest = sum(fold_of(patient, 5, 42) in (1, 2) for patient in PATIENTS)
    lines = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    assert [(line["measurement"], line["variant"], int(line["n"])) for line in lines] == [
        *(("phantom, 64 px", variant, 30 - here) for variant in ("dice", "bce", "focal")),
        ("phantom, 64 px, search-confirm", "dice", here),
        ("phantom, 64 px, search-confirm", "focal", rest),
    ]
    say = say_in(language)
    assert say("confirmations_apart", folders=folder) in text
    assert say("measurements_why", n=1) not in text
    assert say("over_confirmation", n=1, part="phantom, 64 px, search-confirm") in text
    assert say("over_parts_but", n=2) in text
    first, second = text.split(f"<h2>phantom, 64 px, search-confirm: {say('result')}</h2>")
    for words, parts in (
        (say("search_confirmed", variant="focal", k=3, folder=folder), (True, False)),
        (say("best_of", k=3, n=30 - here, variant="focal", mean="", how="").partition("focal")[0], (True, False)),
        (say("confirmation", **SEARCH, folder=tmp_path / "runs" / "search", n=30 - here, here=here), (False, True)),
    ):
        assert (words in first, words in second) == parts


def test_two_searches_in_one_report_have_each_the_command_for_its_own_best(tmp_path: Path) -> None:
    searched(write(tmp_path))
    (tmp_path / "second").mkdir()
    second = write(tmp_path / "second", SPEC.replace("name: search", "name: again").replace("[3, 4]", "[1, 2]"))
    searched(second, shifts={"dice": 0.0, "bce": 0.03, "focal": 0.01})
    folders = [tmp_path / "runs", tmp_path / "second" / "runs"]
    text = unescape(make(folders, tmp_path / "out", baseline="dice").read_text())
    for variant, path in (("focal", tmp_path / "spec.yaml"), ("bce", second)):
        (line,) = [line for line in text.splitlines() if f"segtrain ablate {path} --confirm" in line]
        assert f"{variant} is the best of 3 variants" in line


def test_confirmations_of_one_name_are_told_by_their_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name)
        searched(path)
        confirmation = confirmed(path)
        for member in confirmation.members:
            trained(member, SHIFTS[member.variant])
        write_record(tmp_path / name / "runs" / "search-confirm", confirmation.record)
    parts = comparables(collect([tmp_path / name / "runs" / "search-confirm" for name in ("one", "two")]))
    assert [part.title for part in parts] == [
        f"phantom, 64 px, {tmp_path / name / 'runs' / 'search-confirm'}" for name in ("one", "two")
    ]


def test_the_command_lists_the_confirmation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    searched(path)
    assert ablate.command([str(path), "--confirm", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "search chose focal of 3 variants" in shown.err
    assert "focal-fold2-seed42" in shown.out
    assert "bce" not in shown.out
    assert read_record(tmp_path / "runs" / "search-confirm") is None


def test_a_search_that_is_trained_has_its_record(tmp_path: Path, warm_runs: None) -> None:
    """One tiny training for each of three variants, then two: record, table and report of both."""
    base = {"name": "base", "device": "cpu", "threads_per_rank": 1, "runs_dir": str(tmp_path / "runs"),
            "evaluate": {"pictures": 0},
            "data": {"phantom": {"patients": 6, "size_px": 64}, "image_size": 32, "folds": 2, "store": str(tmp_path)},
            "model": {"features": 4}, "train": {"epochs": 1}}  # fmt: skip
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("[3, 4]", "[0]").replace("loss: focal", "optim.lr: 1.0e-2"))
    assert ablate.command([str(path)]) == 0
    record = read_record(tmp_path / "runs" / "search")
    assert record is not None
    assert record.folds_left == (1,)
    assert shlex.split(record.confirm)[-2:] == [str(path), "--confirm"]
    code = ablate.command([str(path), "--confirm"])
    confirmation = read_record(tmp_path / "runs" / "search-confirm")
    assert code == 0
    assert confirmation is not None
    assert confirmation.search is not None
    rows = list(csv.DictReader((tmp_path / "runs" / "search-confirm" / "results.csv").read_text().splitlines()))
    assert [(row["variant"], row["fold"], row["state"]) for row in rows] == [
        ("dice", "1", "finished"), (confirmation.search.chosen, "1", "finished"),
    ]  # fmt: skip
    assert "took part in choosing it" in (tmp_path / "runs" / "search-confirm" / "report" / "report.md").read_text()
