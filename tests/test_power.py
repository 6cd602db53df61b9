"""What an ablation can find before it starts: the published table, limits, and the command that shows it."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import train
from scipy import stats

from jobs import ablate, plan
from segtrain.config import DataConfig
from segtrain.data.sources import make_source
from segtrain.errors import ConfigError
from segtrain.report.power import LGG_LIKE, Design, Spreads, detectable, power, power_of_verdicts
from segtrain.report.write import make
from segtrain.run import expand

DESIGNS = ((1, 2), (1, 3), (1, 5), (5, 1), (5, 2), (5, 3), (5, 5))  # folds, seeds
TABLE = {  # sd of the patients' differences, sd between trainings, patients: detectable differences
    (0.02, 0.005, 20): (0.023, 0.019, 0.016, 0.021, 0.015, 0.015, 0.014),
    (0.05, 0.01, 10): (0.059, 0.055, 0.053, 0.065, 0.051, 0.051, 0.051),
    (0.05, 0.02, 100): (0.106, 0.061, 0.043, 0.052, 0.031, 0.026, 0.022),
    (0.15, 0.02, 40): (0.096, 0.084, 0.077, 0.102, 0.073, 0.072, 0.070),
}


@pytest.mark.parametrize(("spreads", "expected"), list(TABLE.items()))
def test_the_published_differences(spreads: tuple[float, float, int], expected: tuple[float, ...]) -> None:
    """The table has the next value of three digits at which the power is 0.8."""
    of_people, of_trainings, n = spreads
    found = [detectable(Design(n, *design), Spreads(of_people, of_trainings)) for design in DESIGNS]
    assert found == pytest.approx(expected, abs=0.0011)


def test_power_is_that_of_the_paired_t_test_where_trainings_do_not_differ() -> None:
    """SciPy's noncentral t for one sample of 20 differences; and the level where there is no difference."""
    spreads, design = Spreads(0.05, 0.0), Design(20, 5, 2)
    critical = stats.t.ppf(0.975, 19)
    assert power(0.03, design, spreads) == pytest.approx(
        stats.nct.sf(critical, 19, 0.03 / (0.05 / math.sqrt(20))), abs=1e-5
    )
    assert power(0.0, design, spreads) == pytest.approx(0.05)
    assert power(0.9, design, Spreads(0.01, 0.001)) == 1.0


def test_power_falls_with_comparisons_and_rises_with_seeds() -> None:
    found = [detectable(Design(40, 5, seeds, m), LGG_LIKE) or 9 for seeds, m in ((3, 1), (2, 1), (2, 4), (1, 4))]
    assert found == sorted(found)
    assert Spreads(0.24, 0.02, noise=0.2).of_people(3) < Spreads(0.24, 0.02).of_people(3) == 0.24


@pytest.mark.parametrize("design", [Design(40, 4, 1), Design(40, 1, 1), Design(3, 5, 5)])
def test_what_gives_no_verdict_has_no_power(design: Design) -> None:
    assert power(1.0, design, LGG_LIKE) == 0
    assert detectable(design, LGG_LIKE) is None


SPEC = """\
name: loss
base: base.yaml
folds: [0, 1]
seeds: [1]
variants: {dice: {}, bce: {loss: bce}}
"""


def test_the_table_before_an_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: base\ndata: {source: phantom, phantom: {patients: 30}, image_size: 64}\n"
    )
    (tmp_path / "loss.yaml").write_text(SPEC)
    spec, members = expand(tmp_path / "loss.yaml", [f"runs_dir={tmp_path / 'runs'}"])
    about = plan.show(spec, members, tmp_path / "none", None)
    lines = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "no verdict" in lines["2 x 1 (this spec)"]
    assert "│ 12 " in lines["2 x 1 (this spec)"], "patients of two folds of five"
    assert f"{detectable(Design(30, 5, 2), LGG_LIKE):.3f}" in lines["5 x 2"]
    assert "as small runs on LGG had them" in about


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_no_design_has_more_folds_than_the_patients_are_dealt_into(tmp_path: Path, capsys: Any, folds: int) -> None:
    (tmp_path / "base.yaml").write_text(
        f"name: base\ndata: {{source: phantom, phantom: {{patients: 30}}, image_size: 64, folds: {folds}}}\n"
    )
    (tmp_path / "loss.yaml").write_text(SPEC)
    spec, members = expand(tmp_path / "loss.yaml", [f"runs_dir={tmp_path / 'runs'}"])
    plan.show(spec, members, tmp_path / "none", None)
    shown = [int(number) for number in re.findall(r"^│ (\d+) x \d", capsys.readouterr().out, re.MULTILINE)]
    assert len(shown) >= 4
    assert max(shown) == min(folds, 5)


def test_the_source_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """However many designs are shown; also where the split is the reference's, whose one fold has ten patients."""
    (tmp_path / "base.yaml").write_text(
        "name: base\ndata: {source: phantom, phantom: {patients: 30}, image_size: 64}\n"
    )
    (tmp_path / "loss.yaml").write_text("name: loss\nbase: base.yaml\nvariants: {dice: {}, bce: {loss: bce}}\n")
    spec, members = expand(tmp_path / "loss.yaml", [])
    calls: list[DataConfig] = []

    def counted(cfg: DataConfig) -> Any:
        calls.append(cfg)
        return make_source(cfg)

    monkeypatch.setattr("segtrain.data.sources.make_source", counted)
    plan.show(spec, members, tmp_path, None)
    assert len(calls) == 1
    lines = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "│ 10 " in lines["1 x 3"]
    assert "│ 30 " in lines["5 x 2"]


@pytest.mark.law("L12")
def test_the_spreads_of_an_earlier_report(tmp_path: Path) -> None:
    for seed in (1, 2):
        train(tmp_path / "runs" / f"base-fold0-seed{seed}")
        train(tmp_path / "runs" / f"up-fold0-seed{seed}", 0.05 + 0.02 * seed, wobble=0.01)
    make([tmp_path / "runs"], tmp_path / "report", baseline="base")
    (row,) = [row for row in csv.DictReader((tmp_path / "report/results.csv").read_text().splitlines()) if row["p"]]
    (tmp_path / "base.yaml").write_text("name: base\ndata: {source: phantom, image_size: 64}\n")
    (tmp_path / "loss.yaml").write_text(SPEC)
    spec, members = expand(tmp_path / "loss.yaml", [])
    for asked in (tmp_path / "report", tmp_path / "report" / "results.csv"):
        about = plan.show(spec, members, tmp_path, asked)
        assert f"differences {float(row['sd_differences']):.3f}" in about
        assert str(tmp_path / "report" / "results.csv") in about
    assert float(row["sd_differences"]) == pytest.approx(0.01 * math.sqrt(6 / 5), rel=1e-4)
    assert float(row["sd_trainings"]) == pytest.approx(0.02 / math.sqrt(2), rel=1e-3)
    with pytest.raises(ConfigError, match=r"--spreads .*no report is there"):
        plan.show(spec, members, tmp_path, tmp_path / "nothing")
    (tmp_path / "old.csv").write_text("variant,n,mean_dsc\nbase,6,0.7\n")
    with pytest.raises(ConfigError, match=r"old\.csv: compares no variants"):
        plan.show(spec, members, tmp_path, tmp_path / "old.csv")


def test_the_power_of_stronger_verdicts_is_that_of_the_simulations() -> None:
    """docs/statistics.md, logit, +0.02, 40 patients, tau 0.02, whose patients' differences have an sd of .044."""
    published = {2: (0.38, 0.19, 0.11), 3: (0.55, 0.39, 0.24)}
    for seeds, expected in published.items():
        powers = power_of_verdicts(0.02, Design(40, 5, seeds), Spreads(0.0445, 0.02, seeds=3), own_seeds=False)
        assert list(powers.values()) == pytest.approx(expected, abs=0.07)
        assert list(powers) == ["on these folds and seeds", "on these folds", "without either"]


def test_with_seeds_of_their_own_the_verdict_on_these_folds_is_the_first() -> None:
    design, spreads = Design(40, 5, 2), Spreads(0.0445, 0.02, seeds=3)
    common, own = (power_of_verdicts(0.02, design, spreads, own_seeds) for own_seeds in (False, True))
    assert own["on these folds"] == common["on these folds and seeds"] == power(0.02, design, spreads)
    assert own["on these folds"] > common["on these folds"] + 0.1
    assert power_of_verdicts(0.3, Design(40, 1, 3), spreads, own_seeds=False) == {
        "on these folds": pytest.approx(1, abs=0.01), "without either": 0,
    }  # fmt: skip


def planned(folder: Path, spec: str, capsys: pytest.CaptureFixture[str], find: float, patients: int = 100) -> str:
    """The proposal before an ablation of phantoms."""
    (folder / "base.yaml").write_text(
        f"name: base\ndata: {{source: phantom, phantom: {{patients: {patients}}}, image_size: 64}}\n"
    )
    (folder / "loss.yaml").write_text(spec)
    spread = "variant,region,runs,folds,sd_differences,sd_trainings,sd_noise,gpu_hours\n"
    (folder / "results.csv").write_text(f"{spread}a,,10,5,,0.02,,5\nb,,10,5,0.06,0.02,0.0,5\n")
    parsed, members = expand(folder / "loss.yaml", [])
    about = plan.show(parsed, members, folder, None, find)
    capsys.readouterr()
    return about.splitlines()[0]


def test_the_cheapest_design_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a search by hand over all designs; 0.5 GPU hours a run."""
    spreads = Spreads(0.06, 0.02, seeds=2)
    people = {1: 20, 2: 40, 5: 100}
    enough = [
        (folds * seeds, folds, seeds)
        for folds, n in people.items()
        for seeds in range(1, 11)
        if power(0.03, Design(n, folds, seeds), spreads) >= 0.8
    ]
    _, folds, seeds = min(enough)
    assert (folds, seeds) == (5, 3)
    proposal = planned(tmp_path, SPEC.replace("seeds: [1]", "repeats: 1"), capsys, 0.03)
    assert proposal.startswith(
        "Proposal, to find 0.03: folds: [0, 1, 2, 3, 4], repeats: 3 (30 runs, 15.0 GPU hours): "
        f"{power(0.03, Design(100, 5, 3), spreads):.0%} on these folds, "
    )
    assert proposal.endswith("% without either.")
    with_seeds = planned(tmp_path, SPEC, capsys, 0.03)
    assert "folds: [0, 1, 2, 3, 4], seeds: [1, 2, 3] (30 runs, 15.0 GPU hours): " in with_seeds
    assert "% on these folds and seeds, " in with_seeds


def test_no_design_may_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proposal = planned(tmp_path, SPEC, capsys, 0.001)
    assert "no design of up to 10 trainings of each variant on a fold finds 0.001 in 80% of cases" in proposal
    assert "5 folds x 10" in proposal


@pytest.mark.parametrize("find", ["0", "1", "-0.1"])
def test_a_difference_that_none_can_have_is_refused(find: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablate.command(["spec.yaml", "--find", find])
    assert "--find" in capsys.readouterr().err
