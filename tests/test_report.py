"""The report: one page that fetches nothing and runs no name, counts finished runs alone, in both languages."""

import csv
import re
import shutil
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import pytest
from made_runs import HOSTILE, PATIENTS, train

from segtrain.ablation import COLUMNS
from segtrain.config import Config, TrainConfig
from segtrain.errors import RunError
from segtrain.files import csv_text
from segtrain.metrics import EMPTY_RULE, summarise
from segtrain.report import page
from segtrain.report.collect import by_variant, collect, scores
from segtrain.report.command import command, make
from segtrain.report.cost import Cost, cost
from segtrain.report.figures import Series, lines
from segtrain.report.statistics import compare
from segtrain.report.texts import TEXTS
from segtrain.run import Run

VOID = {"meta", "img", "link", "br", "input"}


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    folder = tmp_path / "loss"
    train(folder / "base-fold0-seed1")
    train(folder / "base-fold1-seed1", patients=("other0", "other1"))
    train(folder / "up-fold0-seed1", 0.05)
    train(folder / "lost-fold0-seed1", -0.3, "diverged")
    train(folder / "slow-fold0-seed1", -0.3, "running")
    return folder


def test_what_a_run_costs() -> None:
    """Two starts an hour of waiting apart, by hand; what a kill undid left no event."""
    starts = [
        {"time": "2026-01-01T10:00:00+0000", "world_size": 4, "device": "cuda:0"},
        {"time": "2026-01-01T12:00:00+0000", "world_size": 2, "device": "cuda:0"},
        {"time": "2026-01-01T15:00:00+0200", "world_size": 8, "device": "cpu"},
    ]
    ten = datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()
    events = [{"time": ten + 3600 * hours} for hours in (0.5, 1.0, 2.25, 2.5, 3.75)]
    assert cost(starts, events) == Cost(hours=1.0 + 0.5 + 0.75, gpu_hours=4 * 1.0 + 2 * 0.5)
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


class Page(HTMLParser):
    """What a browser would meet: tags closed in order, ids, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


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
    assert up.curves["loss"] == [
        (1.0, (1 / 5 + 1 / 10) / 2),
        (2.0, (1 / 15 + 1 / 20) / 2),
        (3.0, (1 / 25 + 1 / 30) / 2),
    ]


@pytest.mark.law("L10")
def test_the_table_of_an_ablation(ablation: Path, tmp_path: Path) -> None:
    make([ablation], tmp_path / "out", baseline="base")
    base, up = csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())
    expected = summarise([0.7, 0.71, 0.72, 0.73, 0.74, 0.75, 0.7, 0.71])
    assert (base["variant"], base["n"], base["verdict"]) == ("base", "8", "baseline")
    assert [float(base[key]) for key in ("mean_dsc", "ci_low", "ci_high")] == pytest.approx(
        [expected.mean, expected.ci_low, expected.ci_high], abs=1e-6
    )
    assert (up["pairs"], up["verdict"]) == ("6", "better"), "the patients of fold 1 have no partner"
    assert float(up["difference"]) == pytest.approx(0.05)
    assert float(up["p"]) == pytest.approx(2 / 2**6)
    report = (tmp_path / "out" / "report.md").read_text()
    for words in (EMPTY_RULE, "+0.0500 \\[+0.050, +0.050\\]", "| other1 |", "loss=dice\\_bce"):
        assert words in report
    drawings = re.findall(r"\((figures/\w+\.svg)\)", report)
    assert len(drawings) == 5
    assert all((tmp_path / "out" / name).read_text().startswith("<svg xmlns=") for name in drawings)


def cells(report: str, table: str, row: str) -> dict[str, str]:
    """A line of a table of the Markdown report, by its heads."""
    lines = [[cell.strip() for cell in line.split(" | ")] for line in report.split(f"## {table}\n")[1].splitlines()]
    heads = next(line for line in lines if len(line) > 1)
    (found,) = [line for line in lines if line[0] == f"| {row}"]
    return dict(zip([head.lstrip("| ") for head in heads], found, strict=True))


@pytest.mark.law("L10")
def test_no_mean_and_no_difference_is_without_its_n_and_interval(ablation: Path, tmp_path: Path) -> None:
    """Of the variant that is better, wherever the report gives it: tables, figures, results.csv."""
    make([ablation], tmp_path / "out", baseline="base")
    report = (tmp_path / "out" / "report.md").read_text()
    of_best, of_last = (summarise([dsc + 0.05 + 0.01 * k for k in range(6)]) for dsc in (0.9, 0.7))
    best, last = (f"{one.mean:.4f} \\[{one.ci_low:.3f}, {one.ci_high:.3f}\\]" for one in (of_best, of_last))
    line = cells(report, "Result", "up")
    assert line["difference to base \\[95% CI\\]"] == "+0.0500 \\[+0.050, +0.050\\]"
    assert (line["pairs (by)"], line["verdict"]) == ("6 (fold and seed)", "better (n = 6)")
    heads = [f"mean DSC, {which} \\[95% CI\\]" for which in ("last epoch", "best epoch\\*")]
    assert [line[head] for head in heads] == [last, best]
    line = cells(report, "Runs", "up-fold0-seed1")
    assert [line[head] for head in ("n", *heads)] == ["6", last, f"{best} (epoch 1)"]
    row = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))[1]
    found = [float(row[key]) for key in ("best_mean_dsc", "best_ci_low", "best_ci_high")]
    assert found == pytest.approx([of_best.mean, of_best.ci_low, of_best.ci_high], abs=1e-6)
    assert row["empty_masks"] == EMPTY_RULE
    make([ablation / "up-fold0-seed1"], tmp_path / "one")
    words = f"{last.replace(chr(92), '')}, n = 6"
    for file, label in (("out/figures/strip.svg", "up: "), ("one/figures/bars.svg", "mean ")):
        assert f">{label}{words}<" in (tmp_path / file).read_text()
    assert ">up: better (n = 6)<" in (tmp_path / "out" / "figures" / "forest.svg").read_text()


@pytest.mark.law("L10")
def test_how_a_variant_was_paired_is_said(ablation: Path, tmp_path: Path) -> None:
    """By the config where the name says nothing; by patients' means where no fold and seed is common."""
    train(ablation / "up-fold1-seed7", 0.1, patients=("other0", "other1"))
    (ablation / "up-fold1-seed7").rename(ablation / "unnamed")
    train(ablation / "alone-fold0-seed3", 0.05)
    make([ablation], tmp_path / "out", baseline="base")
    rows = {row["variant"]: row for row in csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())}
    assert {name: (row["pairs"], row["paired_by"]) for name, row in rows.items()} == {
        "base": ("", ""), "up": ("6", "fold and seed"), "unnamed": ("2", "patients' means"),
        "alone": ("6", "patients' means"),
    }  # fmt: skip
    table = (tmp_path / "out" / "report.md").read_text()
    assert "| 6 (fold and seed) |" in table
    assert "| 6 (patients' means) |" in table
    unnamed, up = (next(run for run in collect([ablation]) if run.variant == name) for name in ("unnamed", "up"))
    assert (unnamed.fold, unnamed.seed, up.fold, up.seed) == (1, 7, 0, 1)


def test_two_names_that_say_nothing_are_paired_by_their_configs(tmp_path: Path) -> None:
    for name, shift in (("one-seed1", 0.0), ("two-seed1", 0.05), ("three-seed2", 0.05)):
        train(tmp_path / name, shift).root.rename(tmp_path / name[:3])
    _, groups = by_variant(collect([tmp_path]), "one")
    rows = compare({variant: scores(own) for variant, own in groups.items()}, "one")
    pairings = {row.variant: row.difference.pairing for row in rows if row.difference}
    assert pairings == {"two": "fold and seed", "thr": "patients' means"}


@pytest.mark.parametrize(("name", "misnamed"), [("up-fold0-seed1", 0), ("up-fold1-seed1", 1), ("up-fold0-seed2", 1)])
def test_a_name_that_the_config_contradicts_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, misnamed: int
) -> None:
    train(tmp_path / "up-fold0-seed1").root.rename(tmp_path / name)
    report = make([tmp_path], tmp_path / "out").with_name("report.md").read_text()
    assert report.count(f"the name's count: {name}.") == misnamed
    assert caplog.text.count("trained on fold 0 with seed 1; the name's count") == misnamed


@pytest.mark.parametrize("language", list(TEXTS))
@pytest.mark.parametrize("whole", [True, False])
def test_the_page_stands_alone(ablation: Path, tmp_path: Path, language: str, whole: bool) -> None:
    given = ablation if whole else ablation / "up-fold0-seed1"
    assert command([str(given), "--out", str(tmp_path / "out"), "--lang", language]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    seen = Page(text)
    ids = [value for key, value in seen.attributes if key == "id"]
    assert len(set(ids)) == len(ids)
    assert ("lang", language) in seen.attributes
    sources = [value for key, value in seen.attributes if key in ("src", "href")]
    assert all(value.startswith("data:image/webp;base64,") or value.removeprefix("#") in ids for value in sources)
    assert not re.search(r"url\(|@import|fetch\(|import\(", text)
    assert seen.tags["script"] == 1
    assert seen.tags["img"] == (2 * 5 if whole else 2)
    assert seen.tags["svg"] == (5 if whole else 3)
    assert TEXTS[language]["phantom"] in seen.text  # type: ignore[index]


def test_hostile_names_are_shown_not_run(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">{{ 7*7 }}'
    for variant in ("base", evil):
        train(tmp_path / "runs" / f"{variant}-fold0-seed1", patients=(HOSTILE, *PATIENTS))
    train(tmp_path / "runs" / "lost", 0.1, "diverged")
    out = tmp_path / "out"
    seen = Page(make([tmp_path / "runs"], out).read_text())
    assert seen.tags["script"] == 1
    assert not [key for key, _ in seen.attributes if key.startswith("on")]
    assert HOSTILE in seen.text
    assert evil in seen.text
    for file in (out / "report.md", *sorted((out / "figures").iterdir())):
        assert not re.search(r"<(script|img)", file.read_text()), file
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\`x\\`" in (out / "report.md").read_text()


def test_the_languages_say_the_same() -> None:
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert list(english) == list(chinese)
    for key, text in english.items():
        fields = [{name for _, name, _, _ in Formatter().parse(words) if name} for words in (text, chinese[key])]
        assert fields[0] == fields[1], key


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
    with pytest.raises(RunError, match=r"patient0 was scored by another run of up, fold and seed; leave one"):
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


def test_an_unfinished_run_has_curves_and_no_verdict(tmp_path: Path) -> None:
    train(tmp_path / "run", state="running")
    cfg = Config(name="new", train=TrainConfig(epochs=3))
    Run(tmp_path / "new").open(cfg, {"hash": "0"}, [], False, 1, "cpu")
    for name in ("run", "new"):
        seen = Page(make([tmp_path / name], tmp_path / "out").read_text())
        assert TEXTS["en"]["nothing"] in seen.text
        assert seen.tags["svg"] == (2 if name == "run" else 0)


def test_a_curve_of_one_point_is_seen() -> None:
    one = lines(
        "loss", [Series("training", [(1.0, 0.5)], 0), Series("validation", [(1.0, 0.4), (2.0, 0.3)], 1)], "epoch"
    )
    assert str(one.svg).count("<circle") == 1


def test_pictures_stop_where_the_page_is_full(ablation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PICTURES_MB", 0.0005)
    seen = Page(make([ablation], tmp_path / "out").read_text())
    assert 0 < seen.tags["img"] < 10
    assert "left out" in seen.text


@pytest.mark.law("L12")
def test_what_cannot_be_reported_is_said_and_nothing_is_written(ablation: Path, tmp_path: Path) -> None:
    out, empty, file = tmp_path / "out", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()
    for paths, target, baseline, words in (
        ([tmp_path / "none"], out, None, "no run is there"),
        ([ablation, empty], out, None, f"{empty}: no run is there"),
        ([ablation], out, "basis", "--baseline basis: no finished run of it; choose one of"),
        ([ablation], out, "lost", "--baseline lost: no finished run"),
        ([ablation], ablation, None, "name another folder"),
        ([ablation / "base-fold0-seed1"], ablation, None, "holds the run base-fold0-seed1; name another folder"),
        ([ablation], ablation / "up-fold0-seed1", "base", "holds the run up-fold0-seed1"),
        ([ablation], file, None, "is a file"),
        ([ablation], file / "below", None, "cannot be written"),
    ):
        with pytest.raises(RunError, match=re.escape(words)):
            make(paths, target, baseline=baseline)
    assert not out.exists()
    assert not list(ablation.rglob("index.html"))
