"""Figures of the report: labels lie on nothing and fit into the figure, whatever the variants are called."""

import math
from xml.etree import ElementTree

import pytest

from segtrain.evaluation.lettering import width, wrapped
from segtrain.evaluation.svg import WIDTH
from segtrain.report import figures
from segtrain.report.figures import Drawing, Interval, Strip

NAMES = (
    "dice",
    "a_very_long_name_of_a_variant_that_nobody_would_type_but_which_a_script_made_" * 2,
    "W" * 90,
    "结合骰子与交叉熵的损失函数并加上深度监督以及非常长的名称" * 3,
)
NOTES = ("better (n = 40)", "no verdict, one training each; these networks differ, and much more is to be said (n = 8)")
ABOVE, BELOW = 10.5, 3.5  # units from a baseline to the top and bottom of letters of size 13

Box = tuple[float, float, float, float]  # left, top, right, bottom


def texts(drawing: Drawing) -> list[Box]:
    """The boxes of all texts."""
    boxes = []
    for element in ElementTree.fromstring(drawing.svg).iter("{http://www.w3.org/2000/svg}text"):
        x, y, wide = float(element.attrib["x"]), float(element.attrib["y"]), width(element.text or "")
        left = x - {"start": 0, "middle": wide / 2, "end": wide}[element.attrib["text-anchor"]]
        boxes.append((left, y - ABOVE, left + wide, y + BELOW))
    return boxes


def strokes(drawing: Drawing) -> list[Box]:
    """The boxes of all lines: axes, the line of zero, intervals."""
    lines = ElementTree.fromstring(drawing.svg).iter("{http://www.w3.org/2000/svg}line")
    ends = [[float(line.attrib[key]) for key in ("x1", "y1", "x2", "y2")] for line in lines]
    return [(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in ends]


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def assert_readable(drawing: Drawing) -> None:
    height = float(ElementTree.fromstring(drawing.svg).attrib["viewBox"].split()[3])
    words = texts(drawing)
    for place, box in enumerate(words):
        assert box[0] >= -1
        assert box[2] <= WIDTH + 1
        assert box[1] >= 0
        assert box[3] <= height
        assert not any(overlap(box, other) for other in words[:place]), "a text lies on another"
        assert not any(overlap(box, stroke) for stroke in strokes(drawing)), "a text lies on a line"


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0])
def test_labels_of_the_forest_lie_on_no_line_and_fit(note: str, scale: float) -> None:
    rows = [
        Interval(name, scale * (place - 1) / 3, scale * (place - 2) / 3, scale * place / 3, note, place)
        for place, name in enumerate(NAMES)
    ]
    rows.append(Interval("one patient", scale / 2, math.nan, math.nan, note, 5))
    for baseline in ("base", NAMES[1]):
        assert_readable(figures.forest("title", rows, f"← worse than {baseline}", f"better than {baseline} →"))


def test_rows_of_the_forest_have_name_verdict_and_number() -> None:
    drawing = figures.forest("t", [Interval("up", 0.0123, 0.003, 0.021, NOTES[0], 1)], "worse", "better")
    shown = [element.text for element in ElementTree.fromstring(drawing.svg).iter() if element.tag.endswith("}text")]
    assert shown[:2] == ["up: better (n = 40)", "+0.0123 [+0.003, +0.021]"]
    assert shown[-2:] == ["worse", "better"]


def test_labels_of_the_strips_lie_on_no_line_and_fit() -> None:
    patients = {f"patient{number}": number / 10 for number in range(11)}
    strips = [
        Strip(f"{name}: 0.5000 [0.400, 0.600], n = 11", patients, 0.5, place, 0.4, 0.6)
        for place, name in enumerate(NAMES)
    ]
    assert_readable(figures.strip("title", strips, "DSC"))


def test_lines_of_text_hold_everything_in_order() -> None:
    words = "a_rather_long_name of a variant: +0.1 [-0.1, +0.3], n = 12"
    for room in (60, 100, 150, 400):
        lines = wrapped(words, room, most=99)
        assert "".join(lines).replace(" ", "") == words.replace(" ", "")
        assert all(width(line) <= room or len(line) == 1 for line in lines)
    assert "+0.1 [-0.1, +0.3], n = 12" in " ".join(wrapped(words, 130))
    assert wrapped("", 100) == [""]
    assert wrapped(words, 60, most=2)[-1].endswith("…")


@pytest.mark.parametrize("patient", ["TCGA_DU_A5TW_19980228", "P7", "W" * 26, "x" * 40])
def test_names_beside_bars_fit(patient: str) -> None:
    drawing = figures.bars("DSC", {patient: 0.5, "P1": 0.25}, ("mean", 0.4), ("median", 0.4))
    assert all(left >= 0 and right <= WIDTH for left, _, right, _ in texts(drawing))
