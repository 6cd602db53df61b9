"""Only scores of one measurement are paired: other sizes, data, seeds, rules or masks have a part of their own."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import PATIENTS, train

from segtrain.commands.report import command
from segtrain.config import EvaluateConfig
from segtrain.errors import RunError
from segtrain.evaluation.metrics import EMPTY_RULE
from segtrain.report import several
from segtrain.report.collect import collect
from segtrain.report.measurement import comparables
from segtrain.report.texts import TEXTS, Language, say_in
from segtrain.report.verdicts import holm
from segtrain.report.write import make
from segtrain.run import EvaluationFiles, Run, write_evaluation

REAL: dict[str, Any] = {"source": "lgg", "root": "/no"}


def made(
    folder: Path, shift: float = 0.0, evaluate: Mapping[str, Any] | None = None, wobble: float = 0.0, **data: Any
) -> Run:
    """A finished run of such data and rules."""
    run = train(folder, shift, wobble=wobble)
    tree = run.config_tree()
    tree["data"] |= data
    tree["evaluate"] |= evaluate or {}
    run.config_file.write_text(yaml.safe_dump(tree))
    return run


def titles(folder: Path) -> list[str]:
    return [one.title for one in comparables(collect([folder]))]


def results(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "results.csv").read_text().splitlines()))


ALL = {"largest_component": False}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({}, REAL, ["phantom, 256 px", "lgg, 256 px"]),
        ({"image_size": 64}, {"image_size": 96}, ["phantom, 64 px", "phantom, 96 px"]),
        ({**REAL, "spacing_mm": 0.9}, {**REAL, "spacing_mm": 1.2}, ["spacing_mm=0.9", "spacing_mm=1.2"]),
        ({"phantom": {"seed": 1}}, {"phantom": {"seed": 2}}, ["phantom.seed=1", "phantom.seed=2"]),
        ({"evaluate": {"threshold": 0.4}}, {}, ["threshold=0.4", "phantom, 256 px"]),
        ({"evaluate": {"threshold": {"lesion": 0.4}}}, {"evaluate": {"threshold": {"lesion": 0.6}}}, ["0.4", "0.6"]),
        ({"evaluate": {"largest_component": False}}, {}, ["largest_component=False", "phantom, 256 px"]),
        ({"evaluate": {"min_component_voxels": 5}}, {}, ["voxels=5", "phantom, 256 px"]),
        ({"evaluate": {"min_component_ml": 0.5}}, {}, ["ml=0.5", "phantom, 256 px"]),
        ({"evaluate": ALL | {"min_component_share": 0.1}}, {"evaluate": ALL}, ["share=0.1", "phantom, 256 px"]),
        ({**REAL, "soft_above": 0.5}, REAL, ["soft_above=0.5", "lgg, 256 px"]),
    ],
)  # fmt: skip
def test_runs_of_other_measurements_are_told_apart(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], words: list[str]
) -> None:
    """Two folds of a variant, or two variants: neither averaged nor paired."""
    made(tmp_path / "runs" / "base-fold0-seed1", **one)
    made(tmp_path / "runs" / "up-fold0-seed1", 0.05, **one)
    made(tmp_path / "runs" / "base-fold1-seed1", **other)
    assert all(word in title for word, title in zip(words, titles(tmp_path / "runs"), strict=True))
    make([tmp_path / "runs"], tmp_path / "out", baseline="up")
    lines = {(line["variant"], line["measurement"]): line for line in results(tmp_path / "out")}
    assert [variant for variant, _ in lines] == ["up", "base", "base"]
    assert [line["n"] for line in lines.values()] == ["6"] * 3
    assert [line["verdict"] for line in lines.values()].count("baseline") == 2, "each part has its own"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "These runs are of 2 measurements" in text
    assert (TEXTS["en"]["phantom"] in text) == ("source" not in one)
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(heads) == len(set(heads))
    assert sum(line.endswith(": Result") for line in heads) == 2
    assert sum(line.endswith("How to read this") for line in heads) == 1


@pytest.mark.parametrize(
    "same",
    [
        {"store": "/elsewhere"},
        {"workers": 3},
        {"augment": "strong"},
        {"sampling": "uniform"},
        {"evaluate": {"batch": 2}},
    ],
)
def test_other_settings_are_what_is_compared(tmp_path: Path, same: dict[str, Any]) -> None:
    made(tmp_path / "runs" / "base-fold0-seed1")
    made(tmp_path / "runs" / "up-fold0-seed1", 0.05, **same)
    assert len(titles(tmp_path / "runs")) == 1
    make([tmp_path / "runs"], tmp_path / "out")
    assert "measurement" not in results(tmp_path / "out")[0]
    assert results(tmp_path / "out")[1]["pairs"] == "6"


def test_other_data_are_told_apart_by_their_fingerprint(tmp_path: Path) -> None:
    """A run from before it was recorded is of whatever it is compared with, unless its masks say otherwise."""
    for name, data in (("base", "0123456789ab"), ("up", "ba9876543210"), ("old", "")):
        run = made(tmp_path / "runs" / f"{name}-seed1")
        (start,) = json.loads(run.environment_file.read_text())
        store = {"store": f"phantom-256px-00000000-{data}"} if data else {}
        run.environment_file.write_text(json.dumps([start | store]))
    parts = comparables(collect([tmp_path / "runs"]))
    assert [one.title for one in parts] == ["phantom, 256 px, data 01234567", "phantom, 256 px, data ba987654"]
    assert [run.variant for run in parts[0].runs] == ["base", "old"]


def test_other_masks_under_the_same_names_are_told_apart(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "base-seed1")
    up = made(tmp_path / "runs" / "up-seed1", 0.05)
    for table in up.validation.glob("*.csv"):
        table.write_text(table.read_text().replace(f"{PATIENTS[2]},3,9,", f"{PATIENTS[2]},3,8,"))
    assert titles(tmp_path / "runs") == ["phantom, 256 px", f"phantom, 256 px, {PATIENTS[2]} of 8 voxels"]


@pytest.mark.parametrize("file", ["environment_file", "config_file"])
def test_a_broken_run_is_in_the_part_of_its_variant(tmp_path: Path, file: str) -> None:
    made(tmp_path / "runs" / "base-fold0-seed1")
    real = [train(tmp_path / "runs" / f"real-fold{fold}-seed1", patients=("R1", "R2")) for fold in (0, 1)]
    for run in real:
        tree = run.config_tree()
        run.config_file.write_text(yaml.safe_dump(tree | {"data": tree["data"] | REAL}))
    getattr(real[1], file).write_text("[")
    first, second = comparables(collect([tmp_path / "runs"]))
    assert sorted([len(first.runs), len(second.runs)]) == [1, 2]
    assert {run.variant for run in (first if len(first.runs) == 2 else second).runs} == {"real"}
    assert command([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--no-atlas"]) == 0
    assert "unreadable" in (tmp_path / "out" / "report.md").read_text()


def test_a_broken_run_of_another_variant_is_in_the_part_of_its_folder(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "large" / "base-fold0-seed1", image_size=96)
    made(tmp_path / "runs" / "small" / "tiny-fold0-seed1", image_size=48)
    broken = train(tmp_path / "runs" / "small" / "broken-fold0-seed1", patients=("Q1", "Q2"))
    broken.config_file.write_text("[")
    broken.outcome_file.unlink()
    parts = {one.title: {run.variant for run in one.runs} for one in comparables(collect([tmp_path / "runs"]))}
    assert parts == {"phantom, 96 px": {"base"}, "phantom, 48 px": {"tiny", "broken"}}
    make([tmp_path / "runs"], tmp_path / "out")
    assert "not YAML" in (tmp_path / "out" / "report.md").read_text()


def test_a_run_that_says_nothing_of_its_data_is_not_compared_with_other_patients(tmp_path: Path) -> None:
    """Its scores count, though its config is of a later version."""
    made(tmp_path / "runs" / "base-fold0-seed1")
    for name, patients in (("other", ("R1", "R2")), ("same", PATIENTS)):
        run = train(tmp_path / "runs" / f"{name}-fold0-seed1", patients=patients)
        run.config_file.write_text("unknown: 1")
    parts = comparables(collect([tmp_path / "runs"]))
    assert [[run.variant for run in one.runs] for one in parts] in (
        [["base", "same"], ["other"]],
        [["other"], ["base", "same"]],
    )


@pytest.mark.law("L12")
def test_a_baseline_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "base-seed1")
    made(tmp_path / "runs" / "real-seed1", **REAL)
    with pytest.raises(RunError, match="--baseline basis: no finished run of it"):
        make([tmp_path / "runs"], tmp_path / "out", baseline="basis")


# Those of an earlier version, which had no other rules.
SETTINGS = {
    key: getattr(EvaluateConfig, key) for key in ("threshold", "largest_component", "min_component_voxels", "tta")
}


def score_in_source(run: Run, dsc: float, **changes: Any) -> None:
    """As `segtrain evaluate --checkpoint last` writes it."""
    rows = [
        {"patient": patient, "trained_on": "no", "original_dsc": f"{dsc + n / 100:.6f}"}
        for n, patient in enumerate(PATIENTS)
    ]
    summary = {
        "runs": [{"run": str(run.root), "checkpoint": run.checkpoint(30).name}],
        "settings": SETTINGS,
        "empty_masks": EMPTY_RULE,
    }
    write_evaluation(run.evaluation("validation", "last"), EvaluationFiles(rows, summary | changes))


def test_across_sizes_masks_are_compared_in_the_source(tmp_path: Path) -> None:
    runs = [made(tmp_path / "runs" / f"dice-at{size}-seed1", image_size=size) for size in (64, 96)]
    make([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Across image sizes" in text
    assert "which are not in this comparison: 2 (dice-at64-seed1, dice-at96-seed1)" in text
    assert "--checkpoint last --postprocessing configured (if its folder validation-last has other scores" in text
    assert "a perfect mask is not worth 1" in text
    for run, dsc in zip(runs, (0.5, 0.6), strict=True):
        score_in_source(run, dsc)
    make([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| dice-at96 (96 px) ")]
    assert "| 0.6250 " in line
    assert "+0.1000" in line
    assert "not in this comparison" not in text
    for other in ({"empty_masks": "another rule"}, {"settings": SETTINGS | {"min_component_ml": 0.5}}):
        score_in_source(runs[1], 0.6, **other)
        make([tmp_path / "runs"], tmp_path / "out")
        assert "not in this comparison: 1 (dice-at96-seed1)" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.law("L10")
@pytest.mark.parametrize("language", TEXTS)
def test_p_is_corrected_over_all_parts_and_across_sizes(tmp_path: Path, language: Language) -> None:
    for size in (64, 96):
        for variant, shift in (("base", 0.0), ("one", 0.01 + size / 9600), ("two", 0.005)):
            for seed in (1, 2, 3):
                name, jitter = f"{variant}-fold0-seed{seed + size}", 0.002 * seed * (-1) ** seed
                wobble = 0.01 if variant == "base" else 0.0
                run = made(tmp_path / "runs" / name, shift + jitter, wobble=wobble, image_size=size)
                score_in_source(run, 0.5 + shift + jitter)
    parts, (across,) = several.parts(collect([tmp_path / "runs"]), "base")
    rows = [row for table in (*(part.rows for part in parts), across.rows) for row in table if row.difference]
    differences = [row.difference for row in rows if row.difference]
    assert len(differences) == 2 * 2 + 5
    for one, p in zip(differences, holm([one.p for one in differences]), strict=True):
        assert one.p_holm == pytest.approx(p)
    assert [row.verdict for row in rows] == [one.verdict for one in differences]
    alone = [holm([row.difference.p for row in part.rows if row.difference]) for part in parts]
    verdicts = [p <= 0.05 for of_part in alone for p in of_part], [one.p_holm <= 0.05 for one in differences[:4]]
    assert verdicts[0] != verdicts[1], "the correction matters here, or this says nothing"
    page = unescape(make([tmp_path / "runs"], tmp_path / "out", language, baseline="base").read_text())
    assert page.count(say_in(language)("over_parts", n=9)) == 1


def test_regions_are_corrected_over_all_parts(tmp_path: Path) -> None:
    for size in (64, 96):
        for variant, shift in (("base", 0.0), ("up", 0.01)):
            for seed in (1, 2):
                of_seed = shift + size / 1e5 + 0.002 * (-1) ** seed * (shift + 1)
                regions = {"whole": of_seed, "core": of_seed + shift, "enhancing": of_seed - shift / 2}
                run = train(tmp_path / f"{variant}{size}-fold0-seed{seed}", regions, wobble=shift)
                tree = run.config_tree()
                run.config_file.write_text(yaml.safe_dump(tree | {"data": tree["data"] | {"image_size": size}}))
    parts, _ = several.parts(collect([tmp_path]), None)
    lines = [line for part in parts for row in part.rows for line in row.lines if line.difference]
    assert [line.region for line in lines] == ["", "whole", "core", "enhancing"] * 2
    for line, p in zip(lines, holm([line.difference.p for line in lines if line.difference]), strict=True):
        assert line.difference is not None
        assert line.difference.p_holm == pytest.approx(p)
        assert line.verdict == line.difference.verdict


def test_a_page_of_several_parts_has_no_name_twice(tmp_path: Path) -> None:
    from test_report import Page

    for size in (64, 96):
        made(tmp_path / "runs" / f"dice-at{size}-seed1", image_size=size)
    for language in TEXTS:
        page = Page(make([tmp_path / "runs"], tmp_path / "out", language).read_text())
        ids = [value for key, value in page.attributes if key == "id"]
        assert len(set(ids)) == len(ids)
        assert make([tmp_path / "runs"], tmp_path / "out", language).exists(), "a report replaces a report"


def test_links_are_grouped_by_part(tmp_path: Path) -> None:
    for size in (64, 96):
        made(tmp_path / "runs" / f"dice-at{size}-seed1", image_size=size)
    page = make([tmp_path / "runs"], tmp_path / "out").read_text()
    links = page.partition("<nav>")[2].partition("</nav>")[0]
    assert links.count("<b>phantom, 64 px</b>") == links.count("<b>phantom, 96 px</b>") == 1
    assert '<a href="#result-2">Result</a>' in links
    assert "<h2>phantom, 96 px: Result</h2>" in page


def test_figures_for_papers_say_which_part_they_are_of(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for size in (64, 96):
        made(tmp_path / "runs" / f"dice-at{size}-seed1", image_size=size)
    make([tmp_path / "runs"], tmp_path / "out", paper_format="svg")
    folder = tmp_path / "out" / "figures" / "paper"
    captions = (folder / "captions.txt").read_text()
    for place, size in ((1, 64), (2, 96)):
        assert f"bars-{place}_3.5in.svg, bars-{place}_7in.svg\nphantom, {size} px: DSC of every patient" in captions
        assert (folder / f"bars-{place}_7in.svg").is_file()


def test_runs_of_one_measurement_have_the_page_that_they_had(ablation: Path) -> None:
    (one,) = comparables(collect([ablation]))
    assert one.runs == collect([ablation])
    assert replace(one, title="").counts
