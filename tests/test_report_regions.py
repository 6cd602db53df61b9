"""Reports of several regions, and of people with several scans: numbers against SciPy, and each mean with its parts."""

import csv
import re
import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_runs import PATIENTS, REGIONS, SCANS, train
from scipy import stats

from segtrain.errors import RunError
from segtrain.evaluation.metrics import summarise
from segtrain.report import page
from segtrain.report.collect import collect
from segtrain.report.statistics import Row, compare, lines_of, mean_of
from segtrain.report.texts import say_in
from segtrain.report.variance import Scores
from segtrain.report.variants import by_variant, compared, scores
from segtrain.report.write import make
from segtrain.run import Run

ALIKE = dict.fromkeys(REGIONS, 0.0)
MIXED = {"whole": 0.05, "core": -0.03, "enhancing": 0.0}
MANY = tuple(f"patient{number:02d}" for number in range(20))
MANY_SCANS = {patient: f"person{number // 2}" for number, patient in enumerate(MANY[:8])}  # and 12 with one scan


def drawn_scores(generator: np.random.Generator, shift: float) -> Scores:
    drawn = {patient: float(generator.normal(0.7 + shift, 0.05)) for patient in MANY}
    return {(patient, 0, seed): dsc for patient, dsc in drawn.items() for seed in (1, 2)}


def by_person(scores: Scores) -> dict[str, float]:
    """Each person's mean over the scans and seeds, written out anew."""
    values: dict[str, list[float]] = {}
    for (patient, _, _), dsc in scores.items():
        values.setdefault(MANY_SCANS.get(patient, patient), []).append(dsc)
    return {person: float(np.mean(own)) for person, own in values.items()}


@pytest.mark.law("L10")
def test_each_region_s_verdict_is_that_of_scipy() -> None:
    """Of two variants, three regions and their mean, with people as pairs and Holm's correction over all eight.

    The second seed repeats the first: without a spread between trainings it is SciPy's t test.
    """
    generator = np.random.default_rng(7)
    shifts = {"base": (0.0, 0.0, 0.0), "up": (0.08, -0.08, 0.0), "same": (0.0, 0.01, 0.0)}
    regions = {
        variant: {name: drawn_scores(generator, shift) for name, shift in zip(REGIONS, own, strict=True)}
        for variant, own in shifts.items()
    }
    means: dict[str, Scores] = {
        variant: {unit: float(np.mean([one[unit] for one in own.values()])) for unit in own["whole"]}
        for variant, own in regions.items()
    }
    rows = compare(means, "base", MANY_SCANS, regions)
    lines = {(line.variant, line.region): line for row in rows for line in row.lines}
    p_values = {}
    for (variant, region), line in lines.items():
        ours, theirs = (regions[v][region] if region else means[v] for v in (variant, "base"))
        assert (line.summary.n, line.patients) == (16, 20)
        assert line.summary.mean == pytest.approx(np.mean(list(by_person(ours).values())))
        if variant == "base":
            assert (line.verdict, line.difference) == ("baseline", None)
            continue
        one, other = by_person(ours), by_person(theirs)
        differences = [one[person] - other[person] for person in one]
        assert line.difference is not None
        assert line.difference.summary.mean == pytest.approx(np.mean(differences))
        assert (line.difference.summary.n, line.difference.patients) == (16, 20)
        p_values[variant, region] = stats.ttest_1samp(differences, 0).pvalue
        assert line.difference.p == pytest.approx(p_values[variant, region])
        assert line.difference.summary.ci_low == pytest.approx(
            stats.ttest_1samp(differences, 0).confidence_interval().low
        )
    corrected = dict(zip(sorted(p_values, key=lambda key: p_values[key]), step_down(p_values.values()), strict=True))
    for key, p in corrected.items():
        difference = lines[key].difference
        assert difference is not None
        assert difference.p_holm == pytest.approx(p)
    verdicts = {region: lines["up", region].verdict for region in ("", *REGIONS)}
    expected = ("not distinguishable", "better on these folds", "worse on these folds", "not distinguishable")
    assert verdicts == dict(zip(("", *REGIONS), expected, strict=True))
    assert {lines["same", region].verdict for region in ("", *REGIONS)} == {"not distinguishable"}


def step_down(p_values: object) -> list[float]:
    """Holm's correction by its definition, of the p values in rising order."""
    ordered = sorted(p_values)  # type: ignore[call-overload]
    steps = [p * (len(ordered) - rank) for rank, p in enumerate(ordered)]
    return [min(1.0, max(steps[: rank + 1])) for rank in range(len(ordered))]


@pytest.mark.law("L10")
def test_a_person_counts_once_however_many_scans_there_are() -> None:
    """Scans that repeat a person's score change nothing: no mean, no interval, no p."""
    generator = np.random.default_rng(0)
    once: dict[str, dict[tuple[str, int | None, int | None], float]] = {"base": {}, "up": {}}
    often: dict[str, dict[tuple[str, int | None, int | None], float]] = {"base": {}, "up": {}}
    people = {}
    for number in range(10):
        for variant, of_variant in once.items():
            dsc = float(generator.uniform(0.5, 0.9))
            of_variant[f"p{number}-0", 0, 1] = dsc
            for scan in range(1 + number % 4):
                often[variant][f"p{number}-{scan}", 0, 1] = dsc
                people[f"p{number}-{scan}"] = f"p{number}"
    for one, other in zip(compare(once, "base"), compare(often, "base", people), strict=True):
        assert (one.patients, other.patients) == (10, 10 + 0 + 1 + 2 + 3 + 0 + 1 + 2 + 3 + 0 + 1)
        assert one.verdict == other.verdict
        assert one.summary.mean == pytest.approx(other.summary.mean)
        if one.difference and other.difference:
            assert one.difference.p == pytest.approx(other.difference.p)
            assert one.difference.summary.ci_low == pytest.approx(other.difference.summary.ci_low)


@pytest.fixture
def regional(tmp_path: Path) -> Path:
    """Runs of three regions and two seeds: a baseline and a variant, with two scans of each of three people."""
    for variant, shift in (("base", ALIKE), ("up", MIXED)):
        wobble = 0.008 * (variant == "up")
        others = tuple(f"other{number}" for number in range(6))
        for seed in (1, 2):
            train(tmp_path / "runs" / f"{variant}-fold0-seed{seed}", shift, people=SCANS)
            train(tmp_path / "runs" / f"{variant}-fold1-seed{seed}", shift, patients=others, wobble=wobble)
    return tmp_path / "runs"


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.law("L10")
def test_every_mean_over_regions_has_its_parts_beside_it(regional: Path, tmp_path: Path) -> None:
    make([regional], tmp_path / "out", baseline="base")
    rows = table(tmp_path / "out" / "results.csv")
    names = ["mean over regions", *REGIONS]
    assert [(row["variant"], row["region"]) for row in rows] == [(v, r) for v in ("base", "up") for r in names]
    assert {(row["n"], row["patients"]) for row in rows} == {("9", "12")}
    verdicts = ["better on these folds", "better on these folds", "worse on these folds", "not distinguishable"]
    assert [row["verdict"] for row in rows[4:]] == verdicts
    whole = [statistics.fmean([0.75 + 0.01 * (2 * k), 0.75 + 0.01 * (2 * k + 1)]) for k in range(3)]
    expected = summarise([*whole, *(0.75 + 0.01 * k + 0.008 * (-1) ** k for k in range(6))])
    assert float(rows[5]["mean_dsc"]) == pytest.approx(expected.mean, abs=1e-6)
    assert float(rows[4]["mean_dsc"]) == pytest.approx(np.mean([float(row["mean_dsc"]) for row in rows[5:]]), abs=1e-6)
    assert float(rows[4]["difference"]) == pytest.approx(0.02 / 3, abs=1e-6)
    assert [bool(row["hours"]) for row in rows] == [True, False, False, False] * 2, "they may be added up"
    report = (tmp_path / "out" / "report.md").read_text()
    lines = [line for line in report.splitlines() if line.startswith("|")]
    means = [place for place, line in enumerate(lines) if "mean over regions" in line]
    assert len(means) == 2 + 1 + 12 + 8, "variants, evidence, patients, runs"
    for place in means:
        assert [name for name in REGIONS if f"| {name} |" in "".join(lines[place + 1 : place + 4])] == list(REGIONS)
    for words in (
        "These 12 patients are scans of 9 people, each of whom counts once.",
        "core, compared with base: 0 better, 0 worse, 1 better or worse on these folds, 0 on these folds and seeds, "
        "0 not distinguishable, 0 without a verdict.",
        "worse on these folds (n = 9 people, 12 patients)",
        "Holm's correction over 4 comparisons",
        "| patient1 | person0 | whole |",
        "n, intervals and tests are over people",
        "| data | nifti /no |",
        "| contrasts | t1, FLAIR, t1ce |",
        "| regions: labels | whole: 1 2 3; core: 1 3; enhancing: 3 |",
        "| ignored labels | 4 |",
        "| mm per pixel | 0.9 |",
    ):
        assert words in report, words
    figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert {f"{name}_region{n}" for name in ("strip", "val_dsc") for n in (1, 2, 3)} < figures
    forest = (tmp_path / "out" / "figures" / "forest.svg").read_text()
    assert re.findall(r">([^<]*) · up: (\w+)", forest) == [
        ("mean over regions", "better"), ("whole", "better"), ("core", "worse"), ("enhancing", "not"),
    ]  # fmt: skip


def test_one_run_of_several_regions(regional: Path, tmp_path: Path) -> None:
    make([regional / "base-fold0-seed1"], tmp_path / "out", language="zh")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| patient0 | person0 | core | 3 | 9 | 5 | 1 | 4 | 0.6000 | 0.8000 |" in report
    assert "| patient0 | person0 | 各区域平均 |  |  |  |  |  | 0.6000 | 0.8000 |" in report
    curves = (tmp_path / "out" / "figures" / "val_dsc.svg").read_text()
    assert all(f">{region}</text>" in curves for region in ("各区域平均", *REGIONS))
    assert (tmp_path / "out" / "figures" / "bars_region3.svg").exists()


def test_a_report_over_one_with_regions_is_a_report(regional: Path, tmp_path: Path) -> None:
    for _ in range(2):
        make([regional], tmp_path / "out")
    assert page.foreign_file(tmp_path / "out") is None


def test_other_regions_are_not_compared(tmp_path: Path) -> None:
    """Of a mean over other regions; a region that both have is compared."""
    train(tmp_path / "base-fold0-seed1", ALIKE)
    train(tmp_path / "two-fold0-seed1", {"whole": 0.02, "core": 0.02})
    one = train(tmp_path / "one-fold0-seed1", 0.1)
    tree, others = one.config_tree(), Run(tmp_path / "base-fold0-seed1").config_tree()
    one.config_file.write_text(yaml.safe_dump(tree | {"data": others["data"] | {"regions": {"lesion": [1]}}}))
    first, groups = by_variant(collect([tmp_path]), "base")
    rows = {(line.variant, line.region): line for row in compared(groups, first) for line in row.lines}
    assert rows["two", ""].verdict == rows["one", ""].verdict == "other regions"
    assert rows["two", "whole"].difference is not None
    assert rows["two", "whole"].difference.summary.mean == pytest.approx(0.02)
    text = make([tmp_path], tmp_path / "out", baseline="base").with_name("report.md").read_text()
    assert text.count("| has other regions |") == 2
    train(tmp_path / "two-fold0-seed2", ALIKE)
    _, groups = by_variant(collect([tmp_path]), "base")
    with pytest.raises(RunError, match=r"has other regions \(.*\) than another run of two"):
        scores(groups["two"])


def test_the_people_that_one_run_knows_are_those_of_all(tmp_path: Path) -> None:
    """Else a variant from before there were groups would have more pairs than people."""
    train(tmp_path / "base-fold0-seed1")
    train(tmp_path / "up-fold0-seed1", 0.05, people=SCANS)
    first, groups = by_variant(collect([tmp_path]), "base")
    rows = compared(groups, first)
    assert [(row.summary.n, row.patients) for row in rows] == [(3, 6), (3, 6)]
    assert rows[1].difference is not None
    assert rows[1].difference.summary.n == 3


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: edit_table(run, "patient3,core", "patient3,whole"), "5 patients, 6 were scored|KeyError|18 rows"),
        (lambda run: edit_table(run, "patient3,core,3,9,5,1,4,0.630000,0.5\r\n", ""), "patient3"),
        (lambda run: edit_table(run, "patient,region", "patient,area"), "region"),
        (lambda run: (run.root / "split.json").write_text('{"people": {}}'), "are 6 people, 3 were scored"),
        (lambda run: (run.root / "split.json").unlink(), "are 6 people, 3 were scored"),
    ],
)
def test_a_table_that_does_not_fit_its_event_does_not_count(tmp_path: Path, change: object, words: str) -> None:
    run = train(tmp_path / "run", ALIKE, people=SCANS)
    change(run)  # type: ignore[operator]
    (collected,) = collect([tmp_path / "run"])
    assert (collected.state, collected.counts) == ("unreadable", False)
    assert re.search(words, collected.reason), collected.reason


def edit_table(run: Run, old: str, new: str) -> None:
    path = run.validation_table(3)
    text = path.read_bytes().decode()
    path.write_bytes(text.replace(old, new).encode())
    assert path.read_bytes() != text.encode(), "the table has that"


def test_nothing_is_said_of_regions_and_people_where_there_are_none(ablation: Path, tmp_path: Path) -> None:
    make([ablation], tmp_path / "out", baseline="base")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in files if re.search("region|people", strip_page(path.read_text()))]


def strip_page(text: str) -> str:
    """Without the attributes that name regions of a page for screen readers."""
    return text.replace('role="region"', "")


def test_lines_are_sorted_region_by_region() -> None:
    def row(variant: str, region: str = "", parts: tuple[Row, ...] = ()) -> Row:
        return Row(variant, mean_of({("p", 0, 1): 0.5}), 1, None, "baseline", region, parts)

    rows = [row(variant, parts=(row(variant, "a"), row(variant, "b"))) for variant in ("x", "y")]
    order = [(line.region, line.variant) for line in lines_of(rows)]
    assert order == [("", "x"), ("", "y"), ("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


def test_hostile_names_of_regions_are_shown_not_run(tmp_path: Path) -> None:
    evil: Mapping[str, float] = {"<script>alert(1)</script>": 0.0, "../../x": 0.0}
    for variant in ("base", "up"):
        train(tmp_path / "runs" / f"{variant}-fold0-seed1", evil, patients=PATIENTS)
    text = make([tmp_path / "runs"], tmp_path / "out").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert all(re.fullmatch(r"\w+\.svg", path.name) for path in (tmp_path / "out" / "figures").iterdir())
    assert say_in("en")("mean_of_regions") in text
