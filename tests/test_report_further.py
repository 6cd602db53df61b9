"""Further scores in a report: whatever columns an evaluation has, by variant, with n, interval, unit and warnings."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import PATIENTS, SCANS, train

from segtrain.evaluation.metrics import summarise
from segtrain.report.collect import collect
from segtrain.report.content import sections
from segtrain.report.further import Evaluated, Further, further_scores
from segtrain.report.page import html_page, markdown
from segtrain.report.tables import Table
from segtrain.report.texts import TEXTS, Language, say_in
from segtrain.report.variants import by_variant, compared
from segtrain.run import EvaluationFiles, Run, write_evaluation

COLUMNS = ("dsc", "hd95_mm", "nsd_1mm", "false_lesion_ml", "lesion_recall_under_0.1_ml", "volume_error_percent")


def of_checkpoint(run: Run, folder: str) -> dict[str, Any]:
    """The part of a summary that says what was scored: the first epoch was the best of three."""
    step = 10 if folder.endswith("-best") else 30
    return {"runs": [{"run": str(run.root), "checkpoint": run.checkpoint(step).name}]}


def values(seed: int) -> dict[str, dict[str, float | None]]:
    """Of each patient, with a gap."""
    generator = np.random.default_rng(seed)
    table: dict[str, dict[str, float | None]] = {
        patient: {column: float(np.round(generator.random() * 9, 6)) for column in COLUMNS} for patient in PATIENTS
    }
    table["patient3"]["hd95_mm"] = None
    return table


def evaluated(run: Run, seed: int, more: tuple[str, ...] = (), folder: str = "validation-last", **summary: Any) -> None:
    """An evaluation as `segtrain evaluate` leaves it; prepared scores are 1000 higher, the last patient is seen."""
    rows = []
    for patient, numbers in values(seed).items():
        cells: dict[str, Any] = {"patient": patient, "false_positive_slices": 0, "institution": "A"}
        cells["trained_on"] = "yes" if patient == PATIENTS[-1] else "no"
        cells |= {key: None if value is None else value + 1000 for key, value in numbers.items()}
        cells |= {f"original_{key}": value for key, value in numbers.items()}
        rows.append(cells | {f"original_{key}": 7.0 for key in more})
    names = (*COLUMNS, *more)
    block: dict[str, Any] = {
        "not_trained_on": {f"{prefix}{name}": {"n": 5} for prefix in ("", "original_") for name in names},
        "original_dsc_by": {"institution A": {"n": 5, "mean": 0.5, "ci_low": 0.4, "ci_high": None}},
    }
    tree = {"geometries": {"prepared": "", "original": ""}, "chosen_on": None, "units": "distances in mm"}
    tree |= of_checkpoint(run, folder)
    write_evaluation(run.evaluations / folder, EvaluationFiles(rows, tree | block | summary))


def scores(root: Path) -> tuple[Further, Table]:
    runs = collect([root])
    _, groups = by_variant(runs, "base")
    further = further_scores(groups, say_in("en"))
    return further, further.tables[0]


def test_every_column_is_a_row_with_its_unit_mean_interval_and_n(tmp_path: Path) -> None:
    for seed in (1, 2):
        evaluated(train(tmp_path / f"base-fold0-seed{seed}", people=SCANS), seed)
    evaluated(train(tmp_path / "other-fold0-seed1", 0.05, people=SCANS), 3, more=("a_new_metric_ml",))
    train(tmp_path / "third-fold0-seed1", 0.06, people=SCANS)  # was never evaluated
    further, table = scores(tmp_path)
    assert table.heads == ["validation-last, in the source's geometry", "unit", "base", "other"]
    assert [(line[0].text, line[1].text) for line in table.rows] == [
        ("dsc", ""), ("hd95", "mm"), ("nsd 1mm", ""), ("false lesion", "ml"), ("lesion recall under 0.1 ml", ""),
        ("volume error", "%"), ("a new metric", "ml"),
    ]  # fmt: skip
    for line, column in zip(table.rows, COLUMNS, strict=False):
        by_person: dict[str, list[float]] = {}
        for patient in PATIENTS[:-1]:  # the last one was trained on
            both = [value for seed in (1, 2) if (value := values(seed)[patient][column]) is not None]
            if both:
                by_person.setdefault(SCANS[patient], []).append(sum(both) / len(both))
        of_people = [sum(own) / len(own) for own in by_person.values()]
        limited = not line[1].text and max(of_people) <= 1  # these made-up values know no limits
        lowest = 0.0 if limited or line[1].text not in ("%", "") else -math.inf
        summary = summarise(of_people, 1.0 if limited else math.inf, lowest)
        assert line[2].value == pytest.approx(summary.mean)
        assert line[2].text == f"{summary.mean:.4g} [{summary.ci_low:.4g}, {summary.ci_high:.4g}], n = 3"
    assert [cell.text for cell in table.rows[-1][2:]] == ["", "7, n = 3"], (
        "values that are all the same have no interval"
    )
    assert further.warnings == []
    strata = further.tables[1]
    assert [cell.text for cell in strata.rows[0][1:]] == ["institution A", "5", "0.5000", "0.4000", ""]
    assert len(strata.rows) == 3, "a row a run"


def test_regions_have_rows_of_their_own(tmp_path: Path) -> None:
    run = train(tmp_path / "base-fold0-seed1", {"whole": 0.0, "core": 0.0})
    rows = [
        {"patient": patient, "region": region, "false_positive_slices": 0, "trained_on": "no", "dsc": value}
        for patient in PATIENTS for region, value in (("whole", 0.9), ("core", 0.5))
    ]  # fmt: skip
    means: dict[str, Any] = {"not_trained_on": {"dsc": {}}}
    tree = {"geometries": {"prepared": ""}, "chosen_on": "too good", "regions": {"whole": means, "core": means}}
    tree |= of_checkpoint(run, "validation-best")
    write_evaluation(run.evaluation("validation", "best"), EvaluationFiles(rows, tree | means))
    further, table = scores(tmp_path)
    assert table.heads == ["validation-best, in the prepared geometry", "region", "unit", "base"]
    assert [[cell.text for cell in line] for line in table.rows] == [
        ["dsc", "whole", "", "0.9, n = 6"], ["dsc", "core", "", "0.5, n = 6"]
    ]  # fmt: skip
    assert further.warnings == ["validation-best: too good"]


@pytest.mark.law("L12")
def test_scores_made_in_other_ways_are_told_and_damaged_ones_passed_over(tmp_path: Path) -> None:
    evaluated(train(tmp_path / "base-fold0-seed1"), 1, empty_masks="a")
    other = train(tmp_path / "other-fold0-seed1", 0.05)
    evaluated(other, 2, empty_masks="b")
    evaluated(other, 2, folder="all-best")
    (other.evaluations / "all-best" / "summary.json").write_text("{")
    (other.evaluations / "somebody's").mkdir()
    further, _ = scores(tmp_path)
    assert [table.heads[0].partition(",")[0] for table in further.tables] == ["validation-last", "run"]
    (warning,) = further.warnings
    assert "validation-last: the runs were scored in different ways (empty_masks)" in warning


def test_geometries_are_in_no_table_together(tmp_path: Path) -> None:
    """Neither of two variants, nor of two runs of one, whose prepared scores are 1000 higher."""
    for seed in (1, 2):
        run = train(tmp_path / f"base-fold0-seed{seed}")
        geometries = {"prepared": ""} | ({"original": ""} if seed == 1 else {})
        evaluated(run, 1, geometries=geometries)
    evaluated(train(tmp_path / "other-fold0-seed1", 0.05), 1, geometries={"prepared": ""})
    tables = [table for table in scores(tmp_path)[0].tables if table.name.startswith("further")]
    assert [(table.heads[0], table.heads[2:]) for table in tables] == [
        ("validation-last, in the source's geometry", ["base"]),
        ("validation-last, in the prepared geometry", ["base", "other"]),
    ]
    (alone,), (one, other) = (table.rows[0][2:] for table in tables)
    assert isinstance(alone.value, float)
    assert one.value == other.value == pytest.approx(alone.value + 1000)
    heads = [table.heads[1] for table in scores(tmp_path)[0].tables if table.name.startswith("strata")]
    assert heads == ["validation-last, in the source's geometry: stratum"]


@pytest.mark.law("L12")
@pytest.mark.parametrize("language", TEXTS)
def test_scores_of_an_earlier_checkpoint_are_left_out_with_the_command_for_new_ones(
    tmp_path: Path, language: Language
) -> None:
    """The scores of a step by its number stay what they are."""
    run = train(tmp_path / "base-fold0-seed1")
    earlier: dict[str, Any] = {"runs": [{"run": str(run.root), "checkpoint": run.checkpoint(20).name}]}
    words = {
        "validation-last": "--checkpoint last --postprocessing configured",
        "validation-best": "--checkpoint best --postprocessing configured",
        "all-last-postprocessed": "--checkpoint last --split all --include-training --postprocessing chosen",
        "mine-last": "--checkpoint last --split FILE --postprocessing configured",
    }
    for folder in (*words, "validation-step-20"):
        evaluated(run, 1, folder=folder, **earlier)
    runs = collect([tmp_path])
    _, groups = by_variant(runs, "base")
    further = further_scores(groups, say_in(language))
    assert [table.heads[0].partition(",")[0] for table in further.tables if table.name.startswith("f")] == [
        "validation-step-20"
    ]
    assert further.warnings == [
        say_in(language)("further_outdated", folder=folder, n=1, runs="base-fold0-seed1",
                         command=f"segtrain evaluate {run.root} {options}")
        for folder, options in sorted(words.items())
    ]  # fmt: skip
    shutil.rmtree(run.evaluations / "validation-step-20")
    parts = sections(runs, groups, compared(groups, "base"), say_in(language))
    assert further.warnings[0] in next(part for part in parts if part.name == "further").warnings
    for folder in words:
        evaluated(run, 1, folder=folder)
    assert len(further_scores(groups, say_in(language)).tables) == 2 * len(words), "of a table and its strata"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_them_and_without_an_evaluation_no_section(tmp_path: Path, language: Any) -> None:
    run = train(tmp_path / "base-fold0-seed1")

    def parts() -> list[Any]:
        runs = collect([tmp_path])
        first, groups = by_variant(runs, None)
        return sections(runs, groups, compared(groups, first), say_in(language))

    title = TEXTS[language]["further"]
    assert title not in markdown(language, parts())
    evaluated(run, 1)
    assert f"## {title}" in markdown(language, parts())
    assert 'id="table-further0"' in html_page(language, parts())


def test_calibration_is_of_the_prepared_geometry_alone(tmp_path: Path) -> None:
    run = train(tmp_path / "base-fold0-seed1")
    row = {"patient": "A", "trained_on": "no", "dsc": "0.9", "original_dsc": "0.8", "ece": "0.125"}
    means: dict[str, Any] = {"dsc": {}, "original_dsc": {}, "ece": {}}
    summary = {"geometries": {"prepared": "", "original": ""}, "not_trained_on": means}
    (collected,) = collect([run.root])
    one = Evaluated(collected, [row], summary)
    assert one.columns("") == ["dsc", "ece"]
    assert [one.values("", column)["A"] for column in one.columns("")] == [0.8, 0.125]


def test_a_low_ceiling_is_told_where_the_scores_are(tmp_path: Path) -> None:
    evaluated(train(tmp_path / "base-fold0-seed1"), 1, low_ceiling="no more than 0.96")
    assert scores(tmp_path)[0].warnings == ["validation-last: no more than 0.96"]


def test_intervals_of_distances_and_of_unknown_metrics_are_not_cut(tmp_path: Path) -> None:
    """HD95 goes above 1 and a change below 0; a share stays within 0 and 1."""
    run = train(tmp_path / "base-fold0-seed1")
    columns = {"hd95_px": 4.0, "dsc": 0.6, "volume_error_voxels": 30.0, "something_new": -2.0}
    rows = [
        {"patient": patient, "trained_on": "no"} | {name: value * (1 + place / 10) for name, value in columns.items()}
        for place, patient in enumerate((*PATIENTS, "a", "b", "c"), start=-4)
    ]
    tree = {"geometries": {"prepared": ""}, "not_trained_on": {name: {} for name in columns}}
    tree |= of_checkpoint(run, "validation-last")
    write_evaluation(run.evaluation("validation", "last"), EvaluationFiles(rows, tree))
    _, table = scores(tmp_path)
    means = {row[0].text: row[2].text for row in table.rows}
    for name, text in means.items():
        low, high = map(float, text.partition("[")[2].partition("]")[0].split(", "))
        mean = float(text.partition(" ")[0])
        assert low < mean < high, name
        assert (high > 1) == (name in ("hd95", "volume error")), name
