"""CSV tables in a spreadsheet: no name is run as a formula, and what reads the tables back gets the same name."""

import csv
import io
from pathlib import Path

import pytest

from segtrain.data.people import read_groups
from segtrain.run import Run
from segtrain.run.index import QueueLine, read_queue, write_queue
from segtrain.runtime.cells import csv_text, read_csv

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1+1", "''@x", "-", "\uff1d1+1", "=\n1")
PLAIN = ("TCGA_CS_4941", "a b", "it's", "'", "'a'", "", "x=1", "a-b")
NUMBERS = ("-0.25", "+3", "-1e-07", "-inf", "-.5")


def cells(text: str) -> list[str]:
    return [row["name"] for row in csv.DictReader(io.StringIO(text, newline=""))]


def test_a_spreadsheet_sees_no_formula_and_our_readers_the_same_name() -> None:
    text = csv_text([{"name": name} for name in FORMULAS])
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r", "\uff1d")) for cell in cells(text))
    assert [cell for cell in cells(text) if cell.startswith("-")] == ["-"], "alone it is text"
    assert [row["name"] for row in read_csv(io.StringIO(text, newline=""))] == list(FORMULAS)


def test_what_is_no_formula_is_written_as_it_is() -> None:
    rows = [{"name": name, "value": -0.25} for name in (*PLAIN, *NUMBERS)]
    text = csv_text(rows)
    assert cells(text) == [*PLAIN, *NUMBERS]
    assert [(row["name"], row["value"]) for row in read_csv(io.StringIO(text))] == [
        (name, "-0.25") for name in (*PLAIN, *NUMBERS)
    ]


def test_columns_are_quoted_too_and_may_be_named() -> None:
    text = csv_text([{"=A1": 1, "b": None}])
    assert text == "'=A1,b\n1,\n"
    assert read_csv(io.StringIO(text)) == [{"=A1": "1", "b": ""}]
    assert csv_text([{"a": 1}], ["a", "b"], line_end="\r\n") == "a,b\r\n1,\r\n"
    with pytest.raises(ValueError, match="fields not in"):
        csv_text([{"a": 1, "c": 2}], ["a"])


def test_tables_of_runs_are_read_back(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.validation.mkdir(parents=True)
    run.write_scores(1, [{"patient": name, "dsc": 0.5} for name in FORMULAS])
    assert b"\n=1+1," not in run.validation_table(1).read_bytes()
    assert [row["patient"] for row in run.scores(1)] == list(FORMULAS)
    write_queue(tmp_path, [QueueLine("a", "failed", "", "=cmd: no such file")])
    assert read_queue(tmp_path)["a"].why == "=cmd: no such file"
    (tmp_path / "groups.csv").write_text("patient,person\n'=1+1,'@a\n=2,b\n")
    assert read_groups(tmp_path / "groups.csv") == {"=1+1": "@a", "=2": "b"}
