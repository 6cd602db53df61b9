"""Suspect labels as files: a table of patients, one of slices, and their pictures on a page and on a sheet.

    suspects.csv   a row for each patient and region whose mask disagrees with its prediction, worst first
    slices.csv     a row for each of their slices with confidently wrong voxels, worst first
    index.html     the first of them with their worst slices, everything in it
    atlas.png      the worst slice of each of these

Legend: h height, w width, c channel.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segtrain.errors import RunError
from segtrain.evaluation.evidence import Kind
from segtrain.evaluation.overlays import Picture, overlay, sheet
from segtrain.evaluation.suspects import Drawn, Suspect
from segtrain.report.page_parts import templates, webp
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text

COLUMNS = (
    "rank", "patient", "region", "kind", "score", "dsc", "dsc_corrected", "shift_slices", "shift_rows", "shift_columns",
    "swapped_with", "worst_slice", "mask_voxels", "predicted_voxels", "missing_voxels", "extra_voxels", "missing_ml",
    "extra_ml", "fold", "run",
)  # fmt: skip
OF_SLICES = ("patient", "region", "slice", "missing_voxels", "extra_voxels", "rank")
TABLE, SLICES, PAGE, SHEET = "suspects.csv", "slices.csv", "index.html", "atlas.png"
QUALITY = 80
SHEET_COLUMNS = 3


@dataclass(frozen=True)
class Shown:
    """A suspect as the page has it."""

    patient: str
    region: str
    kind: Kind
    score: float
    explanation: str
    slices: Sequence[dict[str, Any]]


def refuse_folder(out: Path) -> None:
    """Raises RunError for an `out` with files in it, unless an earlier search has written them."""
    if out.exists() and not out.is_dir():
        raise RunError(f"--out {out}: is a file; name a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    with suppress(OSError), (out / TABLE).open(encoding="utf-8") as file:
        if file.readline().startswith("rank,patient,"):
            return
    raise RunError(f"--out {out}: holds files that segtrain suspects has not written; name another folder")


def write(out: Path, suspects: Sequence[Suspect], top: int, notes: Sequence[str]) -> Path:
    """Write all files, with pictures of the first `top`, over earlier ones; returns the page. Raises RunError."""
    try:
        files.make_folder(out)
        rows, slices = list(rows_of(suspects)), sorted(_slices(suspects), key=_wrong_voxels, reverse=True)
        files.write_text(out / TABLE, csv_text(rows, [*COLUMNS]))
        files.write_text(out / SLICES, csv_text(slices, [*OF_SLICES]))
        files.write_text(out / PAGE, page(suspects[:top], notes))
        _draw(suspects[:top], out / SHEET)
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error
    return out / PAGE


def rows_of(suspects: Sequence[Suspect]) -> Iterator[dict[str, Any]]:
    """A row a suspect; a cell is empty where it has no meaning."""
    for rank, one in enumerate(suspects, start=1):
        missing, extra = (float(part.sum()) for part in (one.evidence.missing, one.evidence.extra))
        shift = one.shift or (None, None, None)
        yield {
            "rank": rank,
            "patient": one.patient,
            "region": one.region,
            "kind": one.kind,
            "score": f"{one.score:.6f}",
            "dsc": f"{one.evidence.dsc:.6f}",
            "dsc_corrected": None if one.dsc_corrected is None else f"{one.dsc_corrected:.6f}",
            **dict(zip(("shift_slices", "shift_rows", "shift_columns"), shift, strict=True)),
            "swapped_with": one.swapped_with,
            "worst_slice": one.slices[0].number if one.slices else None,
            "mask_voxels": one.evidence.mask_voxels,
            "predicted_voxels": one.evidence.predicted_voxels,
            "missing_voxels": f"{missing:.1f}",
            "extra_voxels": f"{extra:.1f}",
            "missing_ml": None if one.voxel_ml is None else f"{missing * one.voxel_ml:.3f}",
            "extra_ml": None if one.voxel_ml is None else f"{extra * one.voxel_ml:.3f}",
            "fold": one.fold,
            "run": one.run,
        }


def _slices(suspects: Sequence[Suspect]) -> Iterator[dict[str, Any]]:
    for rank, one in enumerate(suspects, start=1):
        for number, missing, extra in zip(one.slice_numbers, one.evidence.missing, one.evidence.extra, strict=True):
            if missing + extra > 0:
                yield {
                    "patient": one.patient,
                    "region": one.region,
                    "slice": number,
                    "missing_voxels": f"{missing:.1f}",
                    "extra_voxels": f"{extra:.1f}",
                    "rank": rank,
                }


def _wrong_voxels(row: dict[str, Any]) -> float:
    return float(row["missing_voxels"]) + float(row["extra_voxels"])


def explanation(suspect: Suspect) -> str:
    """What would be wrong with the mask, in words that follow "the mask"."""
    evidence = suspect.evidence
    gain = "" if suspect.dsc_corrected is None else f": DSC {evidence.dsc:.2f}, then {suspect.dsc_corrected:.2f}"
    if suspect.kind is Kind.SHIFTED and suspect.shift:
        steps = zip(suspect.shift, ("slices", "rows", "columns"), strict=True)
        return f"agrees better when moved by {', '.join(f'{step:+d} {of}' for step, of in steps if step)}{gain}"
    if suspect.kind is Kind.SWAPPED:
        return f"agrees better with the prediction for {suspect.swapped_with}{gain}"
    missing = suspect.kind is Kind.MISSING
    voxels = float((evidence.missing if missing else evidence.extra).sum())
    amount = f"{voxels:.0f} voxels" if suspect.voxel_ml is None else f"{voxels * suspect.voxel_ml:.1f} ml"
    return f"lacks {amount} of predicted lesion" if missing else f"has {amount} that are predicted to be no lesion"


def table(suspects: Sequence[Suspect]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows for the page and the terminal; regions only where there are several."""
    several = any(one.region for one in suspects)
    heads = ["", "patient", *(["region"] if several else []), "kind", "score", "DSC", "worst slice"]
    rows = [
        [
            str(rank),
            one.patient,
            *([one.region] if several else []),
            one.kind,
            f"{one.score:.3f}",
            f"{one.evidence.dsc:.3f}",
            str(one.slices[0].number) if one.slices else "",
            explanation(one),
        ]
        for rank, one in enumerate(suspects, start=1)
    ]
    return [*heads, "the mask, if the prediction is right,"], rows


def page(suspects: Sequence[Suspect], notes: Sequence[str]) -> str:
    """The page. It fetches nothing, and every text in it is escaped."""
    shown = [
        Shown(
            patient=one.patient,
            region=one.region,
            kind=one.kind,
            score=one.score,
            explanation=explanation(one),
            slices=[
                {"number": drawn.number, "url": webp(Image.fromarray(picture(drawn)), QUALITY)} for drawn in one.slices
            ],
        )
        for one in suspects
    ]
    heads, rows = table(suspects)
    return templates().get_template("suspects.html.j2").render(suspects=shown, notes=notes, heads=heads, rows=rows)


def picture(drawn: Drawn) -> Picture:
    """The slice plain, and beside it with the outlines of prediction and mask."""
    nothing = np.zeros_like(drawn.mask_hw)
    pair = (nothing, nothing), (drawn.predicted_hw, drawn.mask_hw)
    return np.concatenate([overlay(drawn.plane_hw, *masks) for masks in pair], axis=1)


def _draw(suspects: Sequence[Suspect], path: Path) -> None:
    """The sheet of the worst slices; none without suspects."""
    pictures = [
        (
            " ".join(filter(None, (f"{rank}. {one.patient}", one.region, one.kind, f"slice {drawn.number}"))),
            picture(drawn),
        )
        for rank, one in enumerate(suspects, start=1)
        for drawn in one.slices[:1]
    ]
    path.unlink(missing_ok=True)
    if pictures:
        Image.fromarray(sheet(pictures, SHEET_COLUMNS)).save(path)
