"""A Bland-Altman plot: each person's error of volume against the mean of predicted and true."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from markupsafe import Markup

from segtrain.evaluation.bars import BLUE, RED
from segtrain.evaluation.svg import PALE, WIDTH, Figure, line, scale, svg, text
from segtrain.evaluation.volumes import Estimate, agreement

LEFT, RIGHT, TOP, BOTTOM = 64, WIDTH - 12, 10, 260
MARK = 6  # side of a person's square
BAND = "#eee"
DASHES = {"bias": "none", "lower limit": "5 4", "upper limit": "5 4"}
TICKS = 5

Scale = Callable[[float], float]


def agreement_figure(title: str, predicted: Sequence[float], true: Sequence[float], unit: str) -> Figure:
    """Bias and limits as lines, their intervals as bands, a square for each person; numbers below.

    The squares have no names: hundreds of people fit.
    """
    result = agreement(predicted, true)
    means = [(a + b) / 2 for a, b in zip(predicted, true, strict=True)]
    errors = [a - b for a, b in zip(predicted, true, strict=True)]
    estimates = {"bias": result.bias, "lower limit": result.lower, "upper limit": result.upper}
    drawn = {name: estimate for name, estimate in estimates.items() if math.isfinite(estimate.value)}
    ends = [end for estimate in drawn.values() for end in (estimate.value, estimate.low, estimate.high)]
    heights = [0, *errors, *filter(math.isfinite, ends)]
    steps_x, steps_y = ticks(0, max(means)), ticks(min(heights), max(heights))
    x, y = scale(steps_x[0], steps_x[-1], LEFT, RIGHT), scale(steps_y[0], steps_y[-1], BOTTOM, TOP)
    parts = [_band(estimate, y) for estimate in drawn.values() if math.isfinite(estimate.low)]
    parts += _axes(steps_x, steps_y, x, y, unit)
    for name, estimate in drawn.items():
        parts.append(line(LEFT, y(estimate.value), RIGHT, y(estimate.value), RED, 1.5, DASHES[name]))
    parts += [_square(x(mean), y(error)) for mean, error in zip(means, errors, strict=True)]
    below = BOTTOM + 64
    for note in (title, *_notes(result.n, drawn, unit)):
        parts.append(text(12, below, note))
        below += 18
    return svg(title, below - 6, parts)


def ticks(low: float, high: float) -> list[float]:
    """Round values, some TICKS of them, from at most `low` to at least `high`."""
    raw = (high - low or 1) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [step * number for number in range(first, last + 1)]


def _axes(steps_x: Sequence[float], steps_y: Sequence[float], x: Scale, y: Scale, unit: str) -> Iterator[Markup]:
    for step in steps_x:
        yield line(x(step), TOP, x(step), BOTTOM, PALE)
        yield text(x(step), BOTTOM + 16, f"{step:.6g}", "middle")
    for step in steps_y:
        yield line(LEFT, y(step), RIGHT, y(step), PALE, 2 if step == 0 else 1)
        yield text(LEFT - 6, y(step) + 4, f"{step:.6g}", "end")
    yield text((LEFT + RIGHT) / 2, BOTTOM + 34, f"mean of predicted and true volume, {unit}", "middle")


def _band(estimate: Estimate, y: Scale) -> Markup:
    form = Markup('<rect x="{}" y="{:.1f}" width="{}" height="{:.1f}" fill="{}"/>')
    return form.format(LEFT, y(estimate.high), RIGHT - LEFT, y(estimate.low) - y(estimate.high), BAND)


def _square(x: float, y: float) -> Markup:
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{}" height="{}" fill="{}"/>')
    return form.format(x - MARK / 2, y - MARK / 2, MARK, MARK, BLUE)


def _notes(n: int, estimates: Mapping[str, Estimate], unit: str) -> Iterator[str]:
    bands = "; grey: 95% confidence intervals" if n > 1 else ""
    yield f"Up: predicted - true volume, {unit}; n = {n}{bands}"
    for name, estimate in estimates.items():
        known = math.isfinite(estimate.low)
        interval = f"95% CI {estimate.low:.3g} to {estimate.high:.3g}" if known else "no CI"
        yield f"{name} {estimate.value:.3g} {unit} ({interval})"
