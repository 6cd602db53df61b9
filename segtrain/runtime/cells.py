"""Cells of CSV tables that a spreadsheet would run as formulas: quoted when written, as they were when read."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What Excel, LibreOffice and Google Sheets take for the beginning of a formula, in both widths of the letters.
FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)
QUOTE = "'"  # which spreadsheets take for "this is text"


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, line_end: str = "\n") -> str:
    """A CSV of these columns, or of the keys of its first row; None is an empty cell."""
    lines = _Lines(line_end)
    table = csv.DictWriter(lines, list(map(_quoted, columns or rows[0])))
    table.writeheader()
    table.writerows({_quoted(name): _quoted(cell) for name, cell in row.items()} for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """The lines of a table. csv writes them with CR LF, or it would leave a CR inside of a cell without quotes."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self._end = end

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + self._end)


def read_csv(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a table that `csv_text` wrote, or an earlier version, which quoted nothing. Raises csv.Error.

    `lines`: a file that was opened with newline="", or lines of text.
    """
    return [{unquoted(name): unquoted(cell) for name, cell in row.items()} for row in csv.DictReader(lines)]


def _quoted(cell: Any) -> Any:
    """The cell with a quote before it where its text is like a formula, with or without quotes."""
    return f"{QUOTE}{cell}" if isinstance(cell, str) and _is_like_formula(cell) else cell


def unquoted(cell: Any) -> Any:
    """The text of a cell as it was before it was written."""
    return cell[1:] if isinstance(cell, str) and cell.startswith(QUOTE) and _is_like_formula(cell) else cell


def _is_like_formula(cell: str) -> bool:
    text = cell.lstrip(QUOTE)
    return FORMULA.match(text) is not None and NUMBER.fullmatch(text) is None
