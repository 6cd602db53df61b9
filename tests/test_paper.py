"""Figures for papers: vector files in two widths, with embedded fonts and the numbers of the report."""

import csv
import re
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_runs import PATIENTS, train

from segtrain.errors import RunError
from segtrain.report import figures, paper
from segtrain.report.figures import Interval, Strip
from segtrain.report.write import make

pytest.importorskip("matplotlib")

WIDTH_POINTS = {"3.5in": 252.0, "7in": 504.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for variant, shift in (("base", 0.0), ("up", 0.05)):
        train(folder / f"{variant}-fold0-seed1", shift, wobble=shift / 10)
    return folder


def texts_of(svg: Path) -> list[str]:
    """What an SVG shows as outlines; matplotlib writes every line of text down before its letters."""
    return [text.strip() for text in re.findall(r"<!-- (.*?) -->", svg.read_text(), flags=re.DOTALL)]


def test_svgs_have_the_numbers_of_the_report(runs: Path, tmp_path: Path) -> None:
    make([runs], tmp_path / "out", baseline="base", paper_format="svg")
    folder = tmp_path / "out" / "figures" / "paper"
    drawn = {path.stem for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert {path.name for path in folder.iterdir()} == {
        "captions.txt",
        *(f"{name}_{width}.svg" for name in drawn for width in WIDTH_POINTS),
    }
    row = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))[1]
    number = f"{float(row['difference']):+.4f}"
    ends = f"[{float(row['difference_ci_low']):+.3f}, {float(row['difference_ci_high']):+.3f}]"
    for width, points in WIDTH_POINTS.items():
        svg = folder / f"forest_{width}.svg"
        root = ElementTree.parse(svg).getroot()
        assert root.attrib["width"] == f"{points:g}pt"
        assert not list(root.iter("{http://www.w3.org/2000/svg}text")), "letters are outlines"
        assert not list(root.iter("{http://www.w3.org/2000/svg}image")), "nothing is pixels"
        words = " ".join(texts_of(svg))
        assert "up" in words
        assert number in words
        assert ends in words
    captions = (folder / "captions.txt").read_text()
    assert f"up: {number} {ends}" in captions
    assert "forest_3.5in.svg, forest_7in.svg" in captions


def test_pdfs_embed_their_fonts_and_hold_no_pixels(runs: Path, tmp_path: Path) -> None:
    make([runs / "base-fold0-seed1"], tmp_path / "out", paper_format="pdf")
    folder = tmp_path / "out" / "figures" / "paper"
    assert {path.name for path in folder.glob("bars*")} == {"bars_3.5in.pdf", "bars_7in.pdf"}
    for path in folder.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
        assert b"/FontFile2" in content, "TrueType, embedded"
        assert b"/Subtype /Image" not in content
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", content)
        assert box
        assert float(box[1]) == pytest.approx(WIDTH_POINTS[path.stem.rpartition("_")[2]])


def test_the_same_runs_give_the_same_files(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make([runs], tmp_path / name, baseline="base", paper_format="pdf")
    for path in (tmp_path / "one" / "figures" / "paper").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "figures" / "paper" / path.name).read_bytes()


def test_points_are_where_the_numbers_say(tmp_path: Path) -> None:
    """The distances of the drawn patients are those of their DSC."""
    patients = {name: 0.1 * place for place, name in enumerate(PATIENTS, start=1)}
    plot = figures.strip("strip", [Strip("a: 0.35", patients, 0.35, 0, 0.2, 0.5)], "DSC")
    paper.write(tmp_path, {"strip": plot}, "svg")
    root = ElementTree.parse(tmp_path / "strip_7in.svg").getroot()
    (row,) = [group for group in root.iter("{http://www.w3.org/2000/svg}g") if group.get("id") == "row0"]
    places = [float(use.attrib["x"]) for use in row.iter("{http://www.w3.org/2000/svg}use")]
    steps = [after - before for before, after in pairwise(places)]
    assert len(places) == len(PATIENTS)
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    assert steps[0] > 0


def test_odd_names_and_single_points_are_drawn(tmp_path: Path) -> None:
    names = ("$x^2$_{", "a" * 80, "<b>&amp;", "tab\there")
    rows = [Interval(name, 0.1, float("nan"), float("nan"), "no verdict", place) for place, name in enumerate(names)]
    drawn = {
        "forest": figures.forest("f", rows, "worse", "better"),
        "curve": figures.lines("c", [figures.Series(names[0], [(1.0, 0.5)], 0)], "epoch", unit=True),
        "nothing": figures.lines("n", [], "epoch"),
    }
    paper.write(tmp_path, drawn, "svg")
    assert {path.name.partition("_")[0] for path in tmp_path.glob("*.svg")} == {"forest", "curve"}
    for path in tmp_path.glob("*.svg"):
        ElementTree.parse(path)


def test_without_matplotlib_it_says_so_before_anything_is_written(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RunError, match=r"--figures: needs matplotlib; pip install matplotlib"):
        make([runs], tmp_path / "out", paper_format="pdf")
    assert not (tmp_path / "out").exists()


def test_chinese_needs_a_font_that_has_it(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no font has the letters, the error names the remedy; with one, every letter is drawn by it."""
    from matplotlib import font_manager

    latin = [font for font in font_manager.fontManager.ttflist if font.name.startswith("DejaVu")]
    with monkeypatch.context() as without:
        without.setattr(font_manager.fontManager, "ttflist", latin)
        with pytest.raises(RunError, match=r"--figures --lang zh: no installed font has .*fonts-noto-cjk"):
            make([runs], tmp_path / "out", "zh", paper_format="pdf")
    try:
        paper.require("zh")
    except RunError as error:
        pytest.skip(f"there is no such font here: {error}")
    make([runs], tmp_path / "out", "zh", baseline="base", paper_format="svg")
    assert "比 base 好 →" in " ".join(texts_of(tmp_path / "out" / "figures" / "paper" / "forest_7in.svg"))
