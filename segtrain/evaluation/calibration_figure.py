"""A reliability diagram: of each bin of probability the share of voxels that are lesion, and below it their number."""

from collections.abc import Iterator

from markupsafe import Markup

from segtrain.evaluation.bars import BLUE, GREY, RED
from segtrain.evaluation.calibration import BINS, MARGIN_VOXELS, Reliability
from segtrain.evaluation.svg import PALE, Figure, axis_x, line, svg, text

LEFT, SIDE, TOP = 64, 300, 10  # a square: the diagonal is at 45 degrees
RIGHT, BOTTOM = LEFT + SIDE, TOP + SIDE
NUMBERS_TOP, NUMBERS_BOTTOM = BOTTOM + 60, BOTTOM + 120
GAP = 2  # between bars
LINE = 18


def calibration_figure(title: str, reliability: Reliability, people: int) -> Figure:
    """A bar for each bin that has voxels, a mark at its mean probability and share, and the diagonal of no error."""
    parts = [*axis_x(_x, TOP, BOTTOM, "predicted probability"), *_shares_axis()]
    parts += list(_bars(reliability))
    parts.append(line(LEFT, BOTTOM, RIGHT, TOP, RED, 1.5))
    parts += list(_marks(reliability))
    parts += list(_numbers(reliability))
    below = NUMBERS_BOTTOM + 30
    for note in _notes(title, reliability, people):
        parts.append(text(12, below, note))
        below += LINE
    return svg(title, below - 6, parts)


def _x(value: float) -> float:
    return LEFT + value * SIDE


def _y(value: float) -> float:
    return BOTTOM - value * SIDE


def _shares_axis() -> Iterator[Markup]:
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        yield line(LEFT, _y(tick), RIGHT, _y(tick), PALE)
        yield text(LEFT - 6, _y(tick) + 4, f"{tick:g}", "end")
    yield text(LEFT + 8, TOP + 16, "share of voxels that are lesion")


def _bars(reliability: Reliability) -> Iterator[Markup]:
    for row in reliability.bins():
        if row["voxels"]:
            yield _box(_x(row["from"]) + GAP / 2, _y(row["lesion_share"]), SIDE / BINS - GAP, BOTTOM, BLUE)


def _marks(reliability: Reliability) -> Iterator[Markup]:
    for row in reliability.bins():
        if row["voxels"]:
            x, y = _x(row["mean_probability"]), _y(row["lesion_share"])
            yield _box(x - 3, y - 3, 6, y + 3, "#000")


def _numbers(reliability: Reliability) -> Iterator[Markup]:
    """Each bin's part of all voxels."""
    total = sum(reliability.voxels)
    yield text(LEFT, NUMBERS_TOP - 6, "percent of the voxels")
    for row in reliability.bins():
        share = row["voxels"] / total if total else 0
        top = NUMBERS_BOTTOM - share * (NUMBERS_BOTTOM - NUMBERS_TOP - LINE)
        yield _box(_x(row["from"]) + GAP / 2, top, SIDE / BINS - GAP, NUMBERS_BOTTOM, GREY)
        yield text(_x(row["from"] + 0.5 / BINS), top - 4, _percent(share), "middle")


def _percent(share: float) -> str:
    """Two digits, as there is room for."""
    if 0 < share < 0.001:
        return "<.1"
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _box(x: float, top: float, width: float, bottom: float, fill: str) -> Markup:
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>')
    return form.format(x, top, width, max(0.0, bottom - top), fill)


def _notes(title: str, reliability: Reliability, people: int) -> Iterator[str]:
    ece = reliability.ece
    yield title
    yield f"expected calibration error of all voxels together: {'none' if ece is None else f'{ece:.4f}'}"
    yield f"n = {people}; {sum(reliability.voxels):,} voxels in the boxes around truth and prediction,"
    yield f"grown by {MARGIN_VOXELS[0]} slice and {MARGIN_VOXELS[1]} rows and columns"
    yield "black: a bin's mean probability and its share of lesion"
    yield "below the red line probabilities are too high, above it too low"
