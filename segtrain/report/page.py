"""The files of a report: index.html with everything in it, report.md with its figures beside it, results.csv."""

import html
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

from segtrain.report.albums import albums
from segtrain.report.atlas import Atlas
from segtrain.report.collect import Collected
from segtrain.report.content import Section
from segtrain.report.earlier import RESULTS
from segtrain.report.figures import profile
from segtrain.report.page_parts import templates
from segtrain.report.statistics import Row
from segtrain.report.tables import Table
from segtrain.report.texts import TEXTS, Language, say_in
from segtrain.report.variants import mean_of_variant
from segtrain.report.verdicts import Difference
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text
from segtrain.text_file import open_file

LIMIT_MB = 15  # of the page, so that it can be sent by mail
MEAN_OF_REGIONS = "mean over regions"  # in the column of regions
PICTURES_MB = 12  # of the page, as base64
COLUMNS = (
    "variant", "n", "mean_dsc", "ci_low", "ci_high", "median", "best_mean_dsc", "best_ci_low", "best_ci_high",
    "difference", "difference_ci_low", "difference_ci_high", "pairs", "paired_by", "p", "p_holm", "verdict", "hours",
    "gpu_hours", "images_per_s", "empty_masks", "runs", "folds", "failures", "failure_limit", "sd_trainings", "se",
    "df", "variance_from", "sd_differences", "sd_noise", "folds_ahead", "p_folds", "p_seeds", "p_strict_holm",
    "tolerated_sd",
)  # fmt: skip


# What the beginning of each file shows if it is a report's. The second of the page: reports of earlier versions.
MARKS = {
    "index.html": ('<meta name="generator" content="segtrain">', "default-src 'none'; img-src data:; style-src"),
    "report.md": tuple(f"# {TEXTS[language]['title']}\n" for language in TEXTS),
    RESULTS: (
        *(f"variant,{more}mean_dsc," for more in ("n,", "region,n,", "n,patients,", "region,n,patients,")),
        "variant,measurement,",
    ),
}


@dataclass(frozen=True)
class Viewer:
    """What the atlases of a page let a reader choose, besides the view and the slice."""

    image: str = ""  # the contrast that is shown at first; none where atlases differ
    contrasts: Sequence[str] = ()  # where there are several
    regions: Sequence[tuple[str, str]] = ()  # with their colours, where there are several
    plain: bool = True  # some atlas has one region

    @classmethod
    def of(cls, atlases: Sequence[Atlas]) -> Self:
        """That of these atlases."""
        shown = list(dict.fromkeys(atlas.shown for atlas in atlases))
        contrasts = list(dict.fromkeys(name for atlas in atlases for name in atlas.layers))
        return cls(
            image=shown[0] if len(shown) == 1 else "",
            contrasts=contrasts if any(atlas.others for atlas in atlases) else (),
            regions=atlases[0].names.legend if any(atlas.regions for atlas in atlases) else (),
            plain=not all(atlas.regions for atlas in atlases),
        )

    @property
    def extended(self) -> bool:
        """Whether there is a choice of contrasts or regions."""
        return bool(self.contrasts or self.regions)

    def number(self, region: str) -> int:
        """The number of a region in the names of its layers."""
        return [name for name, _ in self.regions].index(region)


def write_files(out: Path, language: Language, sections: Sequence[Section], results_csv: str) -> Path:
    """Write the report with this table of results; returns the page."""
    files.make_folder(out / "figures")
    for section in sections:
        for name, figure in section.figures.items():
            files.write_text(out / "figures" / f"{name}.svg", str(figure.svg))
    files.write_text(out / RESULTS, results_csv)
    files.write_text(out / "report.md", markdown(language, sections))
    page = out / "index.html"
    files.write_text(page, html_page(language, sections))
    return page


def foreign_file(out: Path) -> Path | None:
    """The file in `out` that a report would replace, and that no report has written; None where there is none."""
    for name, marks in MARKS.items():
        with suppress(OSError), open_file(out / name) as file:
            beginning = file.read(4096).decode(errors="replace")
            if beginning.strip() and not any(mark in beginning for mark in marks):
                return out / name
    return None


def html_page(language: Language, sections: Sequence[Section]) -> str:
    """The page. It fetches nothing, and every text in it is escaped."""
    environment = templates()
    environment.filters["groupby_part"] = lambda all_sections: groupby(all_sections, key=lambda one: one.part)
    runs = [run for section in sections for run in section.pictures]
    atlases = [atlas for section in sections for atlas in section.atlases]
    room = min(PICTURES_MB * 1e6, (LIMIT_MB - 1) * 1e6 - sum(atlas.size for atlas in atlases))
    return environment.get_template("page.html.j2").render(
        viewer=Viewer.of(atlases),
        lang=language,
        say=say_in(language),
        profile=profile,
        sections=sections,
        albums=list(albums(runs, room, LIMIT_MB, say_in(language))),
        open_albums=len(runs) == 1 and not atlases,
    )


def markdown(language: Language, sections: Sequence[Section]) -> str:
    """The same sections as Markdown, without the pictures."""
    parts = [f"# {say_in(language)('title')}"]
    for section in sections:
        if not (section.notes or section.warnings or section.tables or section.figures):
            continue
        parts.append(f"## {section.heading}")
        if section.headline:
            parts.append(f"**{_plain(section.headline)}**")
        parts += [f"**{_plain(warning)}**" for warning in section.warnings]
        parts += [_plain(note) for note in section.notes]
        parts += [_markdown_table(table) for table in section.tables]
        parts += [f"![{_plain(figure.title)}](figures/{name}.svg)" for name, figure in section.figures.items()]
        parts += [f"**{_plain(caution)}**" for caution in section.cautions]
        parts += [_plain(remark) for remark in section.remarks]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [[_plain(head) for head in table.heads]]
    lines.append(["--:" if numeric else "---" for numeric in table.numeric])
    lines += [[_plain(cell.text) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """The text in one line, with everything escaped that Markdown or HTML would take for markup."""
    line = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*_|\[\]!])", r"\\\1", line)


def results(rows: Sequence[Row], groups: Mapping[str, Sequence[Collected]]) -> str:
    """A CSV with a line per variant (and region), for a spreadsheet."""
    columns = list(COLUMNS)
    if any(row.patients != row.summary.n for row in rows):
        columns.insert(2, "patients")
    if any(row.parts for row in rows):
        columns.insert(1, "region")
    lines = [_result(line, groups[line.variant]) for row in rows for line in row.lines]
    table = [{column: line.get(column, "") for column in columns} for line in lines]
    return csv_text(table) if table else ",".join(COLUMNS) + "\n"


def _result(row: Row, runs: Sequence[Collected]) -> dict[str, str]:
    """The columns of a line; those of cost are in the line of the variant alone, so that they may be added up."""
    _, best = mean_of_variant(runs, "best", row.region)
    costs = [run.cost for run in runs if run.cost]
    rates = [run.images_per_s for run in runs if run.images_per_s is not None]
    line = {
        "variant": row.variant,
        "region": row.region or (MEAN_OF_REGIONS if row.parts else ""),
        "n": str(row.summary.n),
        "patients": str(row.patients),
        "mean_dsc": f"{row.summary.mean:.6f}",
        "ci_low": f"{row.summary.ci_low:.6f}",
        "ci_high": f"{row.summary.ci_high:.6f}",
        "median": f"{row.summary.median:.6f}",
        "best_mean_dsc": f"{best.mean:.6f}",
        "best_ci_low": f"{best.ci_low:.6f}",
        "best_ci_high": f"{best.ci_high:.6f}",
        "verdict": row.verdict,
        "runs": str(row.mean.trainings),
        "folds": str(row.mean.folds),
        "failures": str(row.mean.failures),
        "failure_limit": _number(row.mean.failure_limit),
        "sd_trainings": _number(row.mean.spread.sd),
        "empty_masks": " / ".join(dict.fromkeys(run.empty_rule for run in runs)),
    }
    if not row.region:
        line |= {
            "hours": f"{sum(cost.hours for cost in costs):.4f}",
            "gpu_hours": f"{sum(cost.gpu_hours for cost in costs):.4f}",
            "images_per_s": f"{statistics.median(rates):.2f}" if rates else "",
        }
    return line | (_of_difference(row.difference) if row.difference else {})


def _of_difference(difference: Difference) -> dict[str, str]:
    summary, of_folds = difference.summary, difference.folds
    return {
        "difference": f"{summary.mean:.6f}",
        "difference_ci_low": f"{summary.ci_low:.6f}",
        "difference_ci_high": f"{summary.ci_high:.6f}",
        "pairs": str(summary.n),
        "paired_by": "patients' means",
        "p": _number(difference.p),
        "p_holm": _number(difference.p_holm),
        "se": _number(difference.variance.error),
        "df": _number(difference.variance.df),
        "variance_from": difference.variance.basis,
        "sd_differences": _number(difference.sd),
        "sd_noise": _number(difference.sd_noise),
        "folds_ahead": str(of_folds.ahead) if of_folds else "",
        "p_folds": _number(of_folds.p) if of_folds else "",
        "p_seeds": _number(difference.p_seeds),
        "p_strict_holm": _number(difference.p_strict_holm),
        "tolerated_sd": _number(difference.tolerated_sd),
    }


def _number(value: float) -> str:
    """A number to six digits; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.6g}"
