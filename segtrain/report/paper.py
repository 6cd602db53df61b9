"""Figures for papers: those of the report as PDF or SVG, in the widths of one column and of a page, without titles.

Drawn by matplotlib, which is imported here alone, and only where such figures are asked for.
"""

import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtrain.errors import RunError
from segtrain.evaluation.lettering import FONT_UNITS, printable, wrapped
from segtrain.evaluation.svg import Figure
from segtrain.report.figures import Bars, Drawing, Forest, Lines, Strips, colour, dashes, tick_texts
from segtrain.report.texts import TEXTS, Language
from segtrain.runtime import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from segtrain.report.write import PaperFormat

log = logging.getLogger(__name__)

WIDTHS_INCHES = (3.5, 7.0)  # one column and two, as most journals have them
FONT_POINTS = 8
LABELS_SHARE = 0.42  # of the width, that labels beside an axis may take
INK = "#222222"
MARKERS = "osD^vPX"  # by variant, besides its colour
CHINESE = ("Noto Sans CJK", "Source Han Sans", "WenQuanYi", "Microsoft YaHei", "PingFang", "SimHei")  # preferred
STYLE: dict[Any, Any] = {
    "font.size": FONT_POINTS, "axes.labelsize": FONT_POINTS, "xtick.labelsize": FONT_POINTS,
    "ytick.labelsize": FONT_POINTS, "legend.fontsize": FONT_POINTS, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "text.color": INK, "axes.unicode_minus": False, "text.parse_math": False,
    "pdf.fonttype": 42,  # fonts are embedded as they are, so that a publisher can edit text
    "svg.fonttype": "path",  # letters are outlines: a reader needs no font
    "svg.hashsalt": "segtrain",  # the same figure gives the same file
}  # fmt: skip


def require(language: Language) -> None:
    """Raises RunError: no matplotlib, or no font that has the language's letters."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RunError("--figures: needs matplotlib; pip install matplotlib") from error
    letters = set("".join(TEXTS[language].values()))
    if lacking := _families(letters)[1]:
        raise RunError(
            f"--figures --lang {language}: no installed font has {lacking[0]} (U+{ord(lacking[0]):04X}); install one "
            "(Debian: apt install fonts-noto-cjk), delete matplotlib's fontlist-*.json in ~/.cache/matplotlib, or use "
            "--lang en"
        )


def write(out: Path, figures: Mapping[str, Figure], form: "PaperFormat") -> Path:
    """Write every figure in both widths, and captions.txt, into `out`; returns the folder."""
    from matplotlib import rc_context

    files.make_folder(out)
    drawings = {name: figure for name, figure in figures.items() if isinstance(figure, Drawing) and figure.svg}
    families, lacking = _families({letter for drawing in drawings.values() for letter in repr(drawing.plot)})
    if lacking:
        log.warning("figures: no installed font has %s; boxes stand for them", " ".join(lacking))
    captions = []
    with rc_context({**STYLE, "font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # said above, once
        for name, drawing in drawings.items():
            paths = [out / f"{name}_{width:g}in.{form}" for width in WIDTHS_INCHES]
            for path, width in zip(paths, WIDTHS_INCHES, strict=True):
                _draw(drawing, width, path, form)
            captions.append(f"{', '.join(path.name for path in paths)}\n{caption(drawing)}\n")
    files.write_text(out / "captions.txt", "\n".join(captions))
    return out


def caption(drawing: Drawing) -> str:
    """The title, and in words and numbers what the figure shows."""
    plot = drawing.plot
    match plot:
        case Forest():
            details = [f"{row.label}: {row.number}, {row.note}" for row in plot.rows]
        case Strips():
            details = [variant.label for variant in plot.variants]
        case Bars():
            details = [plot.mean[0], plot.median[0]]
        case Lines():
            details = []
    return f"{'. '.join(filter(None, (drawing.title, '; '.join(details))))}."


def _families(letters: Iterable[str]) -> tuple[list[str], list[str]]:
    """The fonts to draw with, each for what those before it lack; the letters that no font has."""
    from matplotlib import font_manager

    default = font_manager.FontProperties(family="DejaVu Sans")  # comes with matplotlib
    lacking = {letter for letter in letters if letter.isprintable()}
    lacking -= _letters_of(font_manager.findfont(default))
    families = ["DejaVu Sans"]
    if lacking:
        plain = [font for font in font_manager.fontManager.ttflist if font.style == "normal" and font.weight == 400]
        for font in sorted(plain, key=lambda font: (not font.name.startswith(CHINESE), font.name)):
            try:
                covered = lacking & _letters_of(font.fname)
            except (OSError, RuntimeError):  # a damaged font
                continue
            if covered:
                families.append(font.name)
                lacking -= covered
            if not lacking:
                break
    return families, sorted(lacking)


def _letters_of(font: str) -> set[str]:
    from matplotlib.font_manager import get_font

    return {chr(code) for code in get_font(font).get_charmap()}


def _draw(drawing: Drawing, width: float, path: Path, form: "PaperFormat") -> None:
    from matplotlib.figure import Figure as Canvas

    plot = drawing.plot
    canvas = Canvas(figsize=(width, 2.2), layout="constrained")
    axes = canvas.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    match plot:
        case Forest():
            height = _forest(axes, plot, width)
        case Strips():
            height = _strips(axes, plot, width)
        case Bars():
            height = _bars(axes, plot)
        case Lines():
            height = _lines(axes, plot, width)
    canvas.set_size_inches(width, height)
    date = {"pdf": "CreationDate", "svg": "Date"}[form]
    canvas.savefig(path, format=form, metadata={date: None})


def _label(words: str, width: float) -> Sequence[str]:
    """The lines of a label beside an axis, in a figure of that width."""
    return wrapped(printable(words), LABELS_SHARE * width * 72 * FONT_UNITS / FONT_POINTS, most=5)


def _rows(axes: "Axes", labels: Sequence[Sequence[str]], heads: Sequence[int]) -> float:
    """Rows from top to bottom with these labels, each as high as its text; returns the height of the figure, inches."""
    axes.set_yticks(heads, ["\n".join(lines) for lines in labels])
    axes.set_ylim(len(heads) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return 0.6 + len(labels) * max(0.3, 0.06 + 0.135 * max(map(len, labels), default=1))


def _forest(axes: "Axes", plot: Forest, width: float) -> float:
    for place, row in enumerate(plot.rows):
        style: dict[str, Any] = {"color": colour(row.place), "gid": f"row{place}"}
        if not math.isnan(row.low):
            axes.plot([row.low, row.high], [place, place], linewidth=1.4, **style)
        axes.plot([row.mean], [place], marker=MARKERS[row.place % len(MARKERS)], markersize=4.5, color=style["color"])
    axes.axvline(0, color=INK, linewidth=0.8, zorder=0)
    axes.set_xlabel("\n".join([*_label(plot.worse, width / 0.9), *_label(plot.better, width / 0.9)]))
    axes.locator_params(axis="x", nbins=4 if width < 5 else 8)
    ticks = [float(tick) for tick in axes.get_xticks()]
    low, high = axes.get_xlim()
    shown = [round(tick, 10) + 0.0 for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, tick_texts(shown))
    labels = [[*_label(row.label, width), *_label(row.number, width)] for row in plot.rows]
    return _rows(axes, labels, range(len(labels))) + 0.15


def _strips(axes: "Axes", plot: Strips, width: float) -> float:
    for place, variant in enumerate(plot.variants):
        values = [dsc for _, dsc in sorted(variant.patients.items())]
        heights = [place + (number % 3 - 1) * 0.12 for number in range(len(values))]
        marker = MARKERS[variant.place % len(MARKERS)]
        fill: dict[str, Any] = {"color": colour(variant.place), "alpha": 0.55, "markeredgewidth": 0}
        axes.plot(values, heights, linestyle="none", marker=marker, markersize=3.5, gid=f"row{place}", **fill)
        if not math.isnan(variant.low):
            axes.plot([variant.low, variant.high], [place, place], color="black", linewidth=1)
        axes.plot([variant.mean] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1.4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(plot.x_label)
    labels = [_label(variant.label, width) for variant in plot.variants]
    return _rows(axes, labels, range(len(labels)))


def _bars(axes: "Axes", plot: Bars) -> float:
    """Every patient's name stands beside its bar, so the height grows with the patients."""
    worst_first = sorted(plot.patients.items(), key=lambda item: (item[1], item[0]))
    places = range(len(worst_first))
    axes.barh(places, [dsc for _, dsc in worst_first], height=0.72, color=colour(5), gid="bars")
    for place, (label, value) in enumerate((plot.mean, plot.median), start=1):
        style = "solid" if place == 1 else "dashed"
        axes.axvline(value, color=colour(place), linewidth=1.2, linestyle=style, label=_in_legend(label))
    axes.set_yticks(places, [printable(patient) for patient, _ in worst_first])
    axes.set_ylim(len(worst_first) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("DSC")
    _legend_above(axes, 1)
    return 1.0 + 0.15 * len(worst_first)


def _lines(axes: "Axes", plot: Lines, width: float) -> float:
    for curve in sorted(plot.series, key=lambda curve: not curve.thin):
        dash = dashes(curve.place)
        style: dict[str, Any] = {"color": colour(curve.place), "linewidth": 1.4, "label": _in_legend(curve.label)}
        if dash != "none":
            style["linestyle"] = (0, tuple(float(length) / 2 for length in dash.split()))
        if curve.thin:
            style |= {"linewidth": 0.6, "alpha": 0.4, "label": None, "linestyle": "solid"}
        marker = "o" if len(curve.points) == 1 else ""
        axes.plot([epoch for epoch, _ in curve.points], [value for _, value in curve.points], marker=marker, **style)
    if plot.unit:
        axes.set_ylim(0, 1)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(plot.x_label)
    columns = 1 if width < 5 else 3
    labelled = sum(not curve.thin for curve in plot.series)
    _legend_above(axes, columns)
    return min(0.65 * width, 3.2) + 0.15 * math.ceil(labelled / columns)


def _in_legend(words: str) -> str:
    """The label; matplotlib leaves those out that begin with an underscore."""
    return printable(f" {words}" if words.startswith("_") else words)


def _legend_above(axes: "Axes", columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderaxespad=0.2)
