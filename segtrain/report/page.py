"""A report written down: index.html with everything in it, report.md with its figures beside it, results.csv."""

import base64
import csv
import html
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from segtrain.report.collect import Collected, best_epoch
from segtrain.report.content import Say, Section, Table
from segtrain.report.figures import profile
from segtrain.report.statistics import Row
from segtrain.report.texts import Language
from segtrain.runtime import files

LIMIT_MB = 15  # of the page: mail takes it
PICTURES_MB = 12  # of that, as base64
WIDEST_PX = 1024
COLUMNS = (
    "variant", "n", "mean_dsc", "ci_low", "ci_high", "median", "best_mean_dsc", "best_ci_low", "best_ci_high",
    "difference", "difference_ci_low", "difference_ci_high", "pairs", "paired_by", "p", "p_holm", "verdict", "hours",
    "gpu_hours", "images_per_s", "empty_masks",
)  # fmt: skip


def write(
    out: Path, language: Language, found: Sequence[Section], rows: Sequence[Row],
    groups: Mapping[str, Sequence[Collected]], say: Say,
) -> Path:  # fmt: skip
    """Write the report into `out`, over an earlier one; returns the page."""
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for section in found:
        for name, figure in section.figures.items():
            files.write_text(out / "figures" / f"{name}.svg", str(figure.svg))
    files.write_text(out / "results.csv", results(rows, groups))
    files.write_text(out / "report.md", markdown(found, say))
    page = out / "index.html"
    files.write_text(page, html_page(language, found, say))
    return page


def html_page(language: Language, found: Sequence[Section], say: Say) -> str:
    """The page: nothing in it is fetched from anywhere, every text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("segtrain", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    runs = [run for section in found for run in section.pictures]
    atlases = [atlas for section in found for atlas in section.atlases]
    albums = _albums(runs, min(PICTURES_MB * 1e6, (LIMIT_MB - 1) * 1e6 - sum(atlas.size for atlas in atlases)), say)
    return environment.get_template("page.html.j2").render(
        lang=language, say=say, profile=profile, sections=found, albums=albums,
        open_albums=len(runs) == 1 and not atlases,
    )  # fmt: skip


def _albums(runs: Sequence[Collected], room: float, say: Say) -> list[tuple[str, list[tuple[str, str]], str]]:
    """Each run's name, its pictures (words, data URL) of the last and the best epoch, and a remark."""
    albums: list[tuple[str, list[tuple[str, str]], str]] = []
    for run in runs:
        shown = {run.best.epoch: "best"} if run.best else {}
        shown |= {run.last.epoch: "last"} if run.last else {}
        pictures = []
        for epoch, which in sorted(shown.items(), reverse=True):
            with suppress(OSError):  # none was drawn, or a crash of the machine cut it
                words = say("picture", run=run.name, epoch=epoch, which=say(which))
                pictures.append((words, _webp(run.run.validation_picture(epoch))))
        size = sum(len(url) for _, url in pictures)
        if size > room:
            albums.append((run.name, [], say("no_room", run=run.name, limit_mb=LIMIT_MB)))
        elif pictures:
            albums.append((run.name, pictures, ""))
            room -= size
    return albums


def _webp(path: Path) -> str:
    with Image.open(path) as picture:
        picture.thumbnail((WIDEST_PX, 16_000))
        small = io.BytesIO()
        picture.save(small, "WEBP", quality=75, method=4)
    return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"


def markdown(found: Sequence[Section], say: Say) -> str:
    """The same sections; pictures are in the page alone."""
    parts = [f"# {say('title')}"]
    for section in found:
        if not (section.notes or section.warnings or section.tables or section.figures):
            continue
        parts.append(f"## {section.title}")
        parts += [f"**{_plain(warning)}**" for warning in section.warnings]
        parts += [_plain(note) for note in section.notes]
        parts += [_markdown_table(table) for table in section.tables]
        parts += [f"![{_plain(figure.title)}](figures/{name}.svg)" for name, figure in section.figures.items()]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [[_plain(text) for text in line] for line in (table.heads, *([c.text for c in row] for row in table.rows))]
    lines.insert(1, ["--:" if numeric else "---" for numeric in table.numeric])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Without what Markdown, or the HTML that it lets through, would take for its own."""
    line = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*_|\[\]!])", r"\\\1", line)


def results(rows: Sequence[Row], groups: Mapping[str, Sequence[Collected]]) -> str:
    """A line a variant, for a spreadsheet."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        found, best, other = row.summary, best_epoch(groups[row.variant]), row.difference
        pair = other.summary if other else None
        costs = [run.cost for run in groups[row.variant] if run.cost]
        spent = [sum(one.hours for one in costs), sum(one.gpu_hours for one in costs)]
        rates = [run.images_per_s for run in groups[row.variant] if run.images_per_s is not None]
        rules = dict.fromkeys(run.empty_rule for run in groups[row.variant])
        numbers: list[float | str] = [found.mean, found.ci_low, found.ci_high, found.median]
        numbers += [best.mean, best.ci_low, best.ci_high]
        numbers += [pair.mean, pair.ci_low, pair.ci_high] if pair else [""] * 3
        tests = [pair.n, other.pairing, f"{other.p:.6g}", f"{other.p_holm:.6g}"] if pair and other else [""] * 4
        shown = [f"{number:.6f}" if isinstance(number, float) else number for number in numbers]
        table.writerow([row.variant, found.n, *shown, *tests, row.verdict, *(f"{hours:.4f}" for hours in spent),
                        f"{statistics.median(rates):.2f}" if rates else "", " / ".join(rules)])  # fmt: skip
    return text.getvalue()
