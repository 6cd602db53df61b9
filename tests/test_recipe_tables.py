"""The tables behind docs/recipe.md, from two made-up folds whose differences are known by hand."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import evaluation_event, train_event
from PIL import Image
from scipy import stats

from benchmarks import splits, unseen, worst
from benchmarks.recipe import command
from segtrain.config import from_tree
from segtrain.errors import RunError
from segtrain.evaluation.overlays import GREEN
from segtrain.report.collect import collect
from segtrain.run import Environment, Outcome, Run

# DSC of the fold's two patients, epoch by epoch.
PLAIN = {0: [(0.60, 0.70), (0.80, 0.72)], 1: [(0.50, 0.60), (0.70, 0.60)]}
BETTER = {0: [(0.90, 0.70), (0.82, 0.76)], 1: [(0.60, 0.66), (0.69, 0.67)]}


def train(root: Path, epochs: list[tuple[float, float]], fold: int) -> None:
    run = Run(root)
    cfg = from_tree({"name": "any", "train": {"epochs": len(epochs), "global_batch": 4}}, "test")
    run.open(cfg, {"hash": "0", "train": [], "validation": []}, [], Environment.now(1, "cpu"))
    for epoch, values in enumerate(epochs, start=1):
        run.record(train_event(epoch * 5, images_per_s=50.0))
        run.write_scores(epoch, [{"patient": f"p{fold}{n}", "dsc": f"{dsc:.6f}"} for n, dsc in enumerate(values)])
        run.record(evaluation_event(epoch * 5, epoch, sum(values) / 2, n=2))
    run.end(Outcome("finished", len(epochs) * 5, len(epochs), 0.9))


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for variant, of_fold in (("plain", PLAIN), ("better", BETTER)):
        for fold, epochs in of_fold.items():
            train(tmp_path / "runs" / f"{variant}-fold{fold}-seed1", epochs, fold)
    return tmp_path / "runs"


@pytest.mark.law("L10")
def test_the_tables_of_two_folds(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    assert command([str(runs), "--of", "plain:better", "--out", str(out)]) == 0
    last, best = read(out / "differences.csv")
    assert (last["epoch"], last["n"], best["epoch"]) == ("last", "4", "best")
    assert last["difference"] == "+0.0300"  # (0.02 + 0.04 - 0.01 + 0.07) / 4
    assert (last["parent_dsc"], last["child_dsc"], last["patients_better"]) == ("0.7050", "0.7350", "3")
    assert float(last["ci_low"]) < 0.03 < float(last["ci_high"])
    # Best epochs, chosen on the mean: better's are its first of fold 0 and its last of fold 1.
    assert best["difference"] == f"{(0.90 - 0.80 + 0.70 - 0.72 + 0.69 - 0.70 + 0.67 - 0.60) / 4:+.4f}"
    reached = {(line["variant"], line["fold"], line["dsc"]): line["images"] for line in read(out / "quality.csv")}
    assert reached["plain", "0", "0.75"] == "40"  # 0.76 after two epochs of 5 steps of 4 images
    assert reached["better", "0", "0.80"] == "20"
    assert reached["plain", "1", "0.70"] == "not reached"
    assert [line["patient"] for line in read(out / "patients.csv")] == ["p00", "p01", "p10", "p11"]
    assert read(out / "patients.csv")[1] | {"seed": "1"} == {
        "patient": "p01", "fold": "0", "seed": "1", "plain": "0.720000", "better": "0.760000",
    }  # fmt: skip


def test_beside_the_last_epoch_is_the_mean_of_the_last_three(tmp_path: Path) -> None:
    """Of a run of fewer, of all of them."""
    train(tmp_path / "runs" / "long-fold0-seed1", [(0.1, 0.2), (0.6, 0.5), (0.9, 0.8), (0.3, 0.2)], 0)
    train(tmp_path / "runs" / "short-fold0-seed1", [(0.4, 0.2), (0.6, 0.5)], 0)
    assert command([str(tmp_path / "runs"), "--of", "long:short", "--out", str(tmp_path / "tables")]) == 0
    first, second = read(tmp_path / "tables" / "patients_late.csv")
    assert [float(first[name]) for name in ("long", "short")] == pytest.approx([0.6, 0.5])
    assert [float(second[name]) for name in ("long", "short")] == pytest.approx([0.5, 0.35])
    assert [row["long"] for row in read(tmp_path / "tables" / "patients.csv")] == ["0.300000", "0.200000"]


@pytest.mark.law("L10")
def test_patients_are_paired_whatever_the_seeds(tmp_path: Path) -> None:
    """The child's second training failed, or has other seeds: all of the parent's count all the same."""
    first, second = [(0.70, 0.80)], [(0.90, 0.60)]
    for name, epochs in (("old-fold0-seed1", first), ("old-fold0-seed2", second), ("new-fold0-seed3", [(0.80, 0.90)])):
        train(tmp_path / "runs" / name, epochs, 0)
    assert command([str(tmp_path / "runs"), "--of", "old:new", "--out", str(tmp_path / "tables")]) == 0
    last = read(tmp_path / "tables" / "differences.csv")[0]
    assert (last["parent_dsc"], last["child_dsc"], last["difference"]) == ("0.7500", "0.8500", "+0.1000")
    assert (last["p_holm"], last["verdict"]) == ("", "no verdict")
    assert {line["seed"] for line in read(tmp_path / "tables" / "cost.csv")} == {"1", "2", "3"}


def test_a_patient_that_one_column_lacks_is_left_out() -> None:
    """As in the tables of a search, whose variants have other folds."""
    rows = [
        {"patient": f"p{n}", "fold": str(n % 2), "seed": "1", "old": f"{0.5 + n / 100}", "new": f"{0.6 + n / 50}"}
        for n in range(12)
    ]
    of_one_fold = [row | ({"new": ""} if row["fold"] == "1" else {}) for row in rows]
    assert unseen.unseen(of_one_fold, [], "old", "new") == unseen.unseen(rows[::2], [], "old", "new")


@pytest.mark.law("L12")
def test_a_variant_that_is_not_there_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--of best: no finished run of it; there are .*plain"):
        command([str(runs), "--of", "plain:best", "--out", str(tmp_path / "tables")])
    assert not (tmp_path / "tables").exists()


def test_the_worst_patients_are_drawn_as_they_were_scored(trained_run: Run, tmp_path: Path) -> None:
    (run,) = collect([trained_run.root])
    assert run.last is not None
    of_run = worst.volumes(trained_run.root, list(run.last.by_patient))
    assert {patient: round(dsc, 6) for patient, (dsc, _, _) in of_run.items()} == run.last.by_patient
    picture = tmp_path / "worst.png"
    both = [str(trained_run.root)] * 2
    assert worst.command([*both, "--patients", "1", "--out", str(picture)]) == 0
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    half = drawn.shape[1] // 2
    assert np.array_equal(drawn[18:, :half], drawn[18:, half:]), "one run, twice: the same on both sides"
    assert (drawn == GREEN).all(axis=2).any(), "the truth"


@pytest.mark.parametrize("comparison", ["confirm", "long"])
def test_the_recipe_s_result_is_over_patients_that_the_search_had_not_scored(comparison: str) -> None:
    """The tables in docs/ are what the command makes of the patients' tables, and the text has their figures."""
    docs = Path(__file__).parent.parent / "docs"
    tables = [read(docs / "recipe" / name / "patients.csv") for name in (comparison, "search")]
    searched = [row["patient"] for row in tables[1]]
    whole, rest = unseen.unseen(tables[0], searched, "lgg", "lgg_best")
    left_out = str(rest["left_out"]).split()
    assert (whole["n"], rest["n"], len(left_out)) == (40, 37, 3)
    assert set(left_out) <= set(searched)
    text = (docs / "recipe.md").read_text()
    for line, written in zip((whole, rest), read(docs / "recipe" / comparison / "unseen.csv"), strict=True):
        assert {key: str(value) for key, value in line.items()} == dict(written)
        assert str(line["difference"]) in text
    assert f"{rest['t_low']} to {rest['t_high']}" in " ".join(text.split())
    short = {patient.removeprefix("TCGA_").rpartition("_")[0] for patient in left_out}
    assert any(short == set(re.findall(r"[A-Z]{2}_\w{4}", line)) for line in text.splitlines())


def test_of_several_trainings_a_patient_counts_once() -> None:
    rng = np.random.default_rng(0)
    dsc, gain = rng.uniform(0.6, 0.9, 24), rng.normal(0.05, 0.02, (24, 2))
    rows = []
    for (place, training), gained in np.ndenumerate(gain):
        fold = place // 8
        unit = {"patient": f"p{place}", "fold": str(fold), "seed": str(10 * fold + training)}
        rows.append(unit | {"old": str(dsc[place]), "new": str(dsc[place] + gained)})
    searched = ["p0", "p9", "of another data set"]
    whole, rest = unseen.unseen(rows, searched, "old", "new")
    of_rest = np.delete(gain, [0, 9], axis=0).mean(axis=1)
    for line, gains in ((whole, gain.mean(axis=1)), (rest, of_rest)):
        assert (line["n"], line["trainings"]) == (len(gains), 6)
        assert float(line["difference"]) == pytest.approx(gains.mean(), abs=1e-4)
        low, high = stats.ttest_1samp(gains, 0).confidence_interval()  # of these trainings: not shorter than that
        assert float(line["ci_low"]) <= low + 1e-4
        assert float(line["ci_high"]) >= high - 1e-4
        assert line["verdict"] == "better on these folds"
    assert (whole["left_out"], rest["left_out"]) == ("", "p0 p9")
    for row in rows:  # a training that failed; the patients of its fold were scored by the other one
        row["new"] = "" if row["seed"] == "10" else row["new"]
    without, _ = unseen.unseen(rows, searched, "old", "new")
    assert (without["n"], without["trainings"]) == (24, 5)
    gains = np.where(np.arange(24) // 8 == 1, gain[:, 1], gain.mean(axis=1))
    assert float(without["difference"]) == pytest.approx(gains.mean(), abs=1e-4)
    of_common = [row for row in rows if row["fold"] != "2"]
    alone = [{**row, "new": ""} for row in rows if row["fold"] == "2"]  # a fold that one recipe alone has
    assert unseen.unseen([*of_common, *alone], searched, "old", "new") == unseen.unseen(
        of_common, searched, "old", "new"
    )
    with pytest.raises(RunError, match=r"old:new: no patient in common"):
        unseen.unseen([{**row, "new": ""} for row in rows], searched, "old", "new")


def test_folds_of_the_recipe_are_those_of_version_1() -> None:
    """By the lesions' voxels as prepared at 64 px for the search, at 96 px for the confirmation."""
    docs = Path(__file__).parent.parent / "docs"
    table = read(docs / "splits" / "patients.csv")
    for comparison, size_px in (("search", 64), ("confirm", 96)):
        prepared = [{**row, "lesion_voxels": row[f"voxels_at_{size_px}_px"]} for row in table]
        folds = dict(zip([row["patient"] for row in table], splits.by_volume(prepared, 5, 42), strict=True))
        for row in read(docs / "recipe" / comparison / "patients.csv"):
            assert folds[row["patient"]] == int(row["fold"])
    before, after = splits.moves(table)
    assert (before["moved_64_to_96_px"], after["moved_64_to_96_px"], after["moved_when_one_leaves_most"]) == (14, 0, 0)
