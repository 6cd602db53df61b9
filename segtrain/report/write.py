"""A report from beginning to end: runs collected, compared, drawn and written into a folder."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segtrain.errors import RunError
from segtrain.report.texts import Language, say_in
from segtrain.runtime import files

if TYPE_CHECKING:
    from segtrain.evaluation.svg import Figure
    from segtrain.report.content import Section

log = logging.getLogger(__name__)

PaperFormat = Literal["pdf", "svg"]


def make(
    paths: Sequence[Path],
    out: Path,
    language: Language = "en",
    baseline: str | None = None,
    atlas_of: Sequence[Path] | None = None,
    overrides: Sequence[str] = (),
    sort: str = "dsc",
    paper_format: PaperFormat | None = None,
) -> Path:
    """Write the report of the runs in `paths` into `out`; returns the page. Raises RunError before it writes.

    `atlas_of`: the runs that get an atlas; None: none of them; empty: those that `atlas.shown` chooses. `sort`: the
    order of its patients, of SORTS. `paper_format`: of the figures for papers; None: there are none.
    """
    from segtrain.report import atlas, collect, content, page, paper, several  # slow to import

    if out.resolve() in [path.resolve() for path in paths]:
        raise RunError(f"--out {out}: is what the report is about; name another folder, for example {out / 'report'}")
    if out.exists() and not out.is_dir():
        raise RunError(f"--out {out}: is a file; name a folder")
    if foreign := page.foreign_file(out):
        raise RunError(f"--out {out}: {foreign.name} in it is not a report's; name another folder")
    if paper_format:
        paper.require(language)
    runs = collect.collect(paths)
    _refuse_among_runs(out, [run.run.root for run in runs])
    parts, across = several.parts(runs, baseline)
    main = next((part for part in parts if part.groups), parts[0])
    groups, rows = main.groups, main.rows
    if len(rows) > 1:
        log.info("compared with %s; --baseline VARIANT chooses another", rows[0].variant)
    with_atlas = [] if atlas_of is None else atlas.shown(runs, groups, rows, atlas_of)
    _make_folder(out)  # before the minutes that an atlas may take
    atlases = atlas.atlases(with_atlas, overrides, sort)
    say = say_in(language)
    try:
        if len(parts) == 1:
            sections, results = content.sections(runs, groups, rows, say, atlases), page.results(rows, groups)
        else:
            for part in parts:
                log.info("not compared with other parts: %s (%d runs)", part.of.title, len(part.of.runs))
            sections, results = several.sections(parts, across, say, atlases), several.results(parts)
        if paper_format:
            paper.write(out / "figures" / "paper", _captioned(sections), paper_format)
        return page.write_files(out, language, sections, results)
    except OSError as error:
        raise _not_writable(out, error) from error


def _captioned(sections: "Sequence[Section]") -> "dict[str, Figure]":
    """The figures by their names, each with a title that says what part of the report it is of."""
    return {
        name: replace(figure, title=f"{section.part}: {figure.title}") if section.part else figure
        for section in sections
        for name, figure in section.figures.items()
    }


def _refuse_among_runs(out: Path, roots: Sequence[Path]) -> None:
    """Refuse a folder of runs: an ablation has its own results.csv there."""
    for root in roots:
        if out.resolve() in (root.resolve(), root.parent.resolve()):
            raise RunError(f"--out {out}: holds the run {root.name}; name another folder, for example {out / 'report'}")


def _make_folder(out: Path) -> None:
    try:
        files.make_folder(out)
    except OSError as error:
        raise _not_writable(out, error) from error


def _not_writable(out: Path, error: OSError) -> RunError:
    return RunError(f"--out {out}: cannot be written ({error.strerror}); name another folder")
