"""The report: one page that fetches nothing and runs no name, counts finished runs alone, in both languages."""

import csv
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import pytest
from made_runs import HOSTILE, PATIENTS, train

from segtrain.commands.report import command
from segtrain.config import Config, TrainConfig
from segtrain.errors import RunError
from segtrain.evaluation.metrics import EMPTY_RULE, summarise
from segtrain.report import page
from segtrain.report.figures import Series, lines
from segtrain.report.texts import TEXTS
from segtrain.report.write import make
from segtrain.run import Environment, Run

VOID = {"meta", "img", "link", "br", "input"}


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


@pytest.mark.law("L10")
def test_the_table_of_an_ablation(ablation: Path, tmp_path: Path) -> None:
    make([ablation], tmp_path / "out", baseline="base")
    base, up = csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())
    expected = summarise([0.7, 0.71, 0.72, 0.73, 0.74, 0.75, 0.7, 0.71])
    assert (base["variant"], base["n"], base["verdict"]) == ("base", "8", "baseline")
    assert [float(base[key]) for key in ("mean_dsc", "ci_low", "ci_high")] == pytest.approx(
        [expected.mean, expected.ci_low, expected.ci_high], abs=1e-6
    )
    assert (up["pairs"], up["verdict"]) == ("6", "no verdict"), "the patients of fold 1 have no partner"
    assert float(up["difference"]) == pytest.approx(0.05)
    assert (float(up["p"]), up["p_holm"], up["variance_from"]) == (1.0, "", "patients"), (
        "the differences are all the same"
    )
    assert (base["runs"], base["folds"], base["failures"]) == ("2", "2", "0")
    assert float(base["failure_limit"]) == pytest.approx(1 - 0.025 ** (1 / 8), abs=1e-6)
    report = (tmp_path / "out" / "report.md").read_text()
    for words in (EMPTY_RULE, "| +0.0500 |", "| other1 |", "loss=dice\\_bce"):
        assert words in report
    drawings = re.findall(r"\((figures/\w+\.svg)\)", report)
    assert len(drawings) == 5
    assert all((tmp_path / "out" / name).read_text().startswith("<svg xmlns=") for name in drawings)


def cells(report: str, table: str, row: str) -> dict[str, str]:
    """A line of a table of the Markdown report, by its heads."""
    section = report.split(f"## {table}\n")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.split(" | ")] for line in section.splitlines()]
    heads = next(line for line in lines if len(line) > 1)
    (found,) = [line for line in lines if line[0] == f"| {row}"]
    return dict(zip([head.lstrip("| ") for head in heads], found, strict=True))


@pytest.mark.law("L10")
def test_no_mean_and_no_difference_is_without_its_n_and_interval(tmp_path: Path) -> None:
    """Of a variant with two seeds, wherever the report gives it: tables, figures, results.csv."""
    ablation = tmp_path / "loss"
    for seed in (1, 2):
        train(ablation / f"base-fold0-seed{seed}")
        train(ablation / f"up-fold0-seed{seed}", 0.05, wobble=0.004)
    make([ablation], tmp_path / "out", baseline="base")
    report = (tmp_path / "out" / "report.md").read_text()
    of_best, of_last = (summarise([dsc + 0.05 + 0.01 * k + 0.004 * (-1) ** k for k in range(6)]) for dsc in (0.9, 0.7))
    best, last = (f"{one.mean:.4f} \\[{one.ci_low:.3f}, {one.ci_high:.3f}\\]" for one in (of_best, of_last))
    line = cells(report, "Result", "up")
    assert line["difference to base \\[95% CI\\]"] == "+0.0500 \\[+0.045, +0.055\\]"
    assert (line["pairs"], line["p (Holm)"], line["verdict"]) == ("6", "&lt; 0.001", "better on these folds (n = 6)")
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
    assert ">up: better on these folds (n = 6)<" in (tmp_path / "out" / "figures" / "forest.svg").read_text()


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


def test_an_unfinished_run_has_curves_and_no_verdict(tmp_path: Path) -> None:
    train(tmp_path / "run", state="running")
    cfg = Config(name="new", train=TrainConfig(epochs=3))
    Run(tmp_path / "new").open(cfg, {"hash": "0"}, [], Environment.now(1, "cpu"))
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


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", page.MARKS)
def test_a_report_replaces_a_report_and_nothing_else(ablation: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for language in ("en", "zh", "en"):
        make([ablation], out, language=language)
    mine = "run,variant,score\nmine,of last year,0.9\n"
    (out / name).write_text(mine)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=f"{re.escape(name)} in it is not a report's; name another folder"):
        make([ablation], out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
