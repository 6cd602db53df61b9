"""Repeats in place of seeds: each training has a seed of its own, and a report knows that its folds share none."""

import csv
from pathlib import Path

import pytest
import yaml
from made_runs import train

from jobs import ablate, ablation_report, submission
from jobs.resources import Resources
from segtrain.errors import ConfigError
from segtrain.report.collect import collect
from segtrain.report.texts import TEXTS
from segtrain.report.variants import by_variant, compared
from segtrain.report.write import make
from segtrain.run import expand, read_results, write_results
from segtrain.run.ablation import seed_of_repeat

BASE = "name: base\ndata: {source: phantom, phantom: {patients: 30}, image_size: 64}\n"
SPEC = """\
name: loss
base: base.yaml
folds: [0, 1]
repeats: 2
variants: {dice: {}, bce: {loss: bce}}
"""


def write(folder: Path, spec: str = SPEC) -> Path:
    (folder / "base.yaml").write_text(f"{BASE}runs_dir: {folder / 'runs'}\n")
    (folder / "spec.yaml").write_text(spec)
    return folder / "spec.yaml"


@pytest.mark.law("L12")
def test_the_base_is_beside_the_spec_or_the_name_of_a_packaged_config(tmp_path: Path) -> None:
    spec = write(tmp_path, SPEC.replace("base.yaml", "lgg"))
    assert {member.cfg.train.epochs for member in expand(spec, ["data.root=/data"])[1]} == {100}
    (tmp_path / "lgg").write_text("data: {source: phantom}\ntrain: {epochs: 3}\n")
    assert {member.cfg.train.epochs for member in expand(spec, [])[1]} == {3}
    for name, why in (("lggg", "lggg: neither a file nor .*did you mean lgg"), ("none.yaml", "none.yaml: cannot read")):
        with pytest.raises(ConfigError, match=rf"spec.yaml: base: .*{why}"):
            expand(write(tmp_path, SPEC.replace("base.yaml", name)), [])


@pytest.mark.law("L12")
@pytest.mark.parametrize("more", [["--dry-run"], [], ["--cluster", "cpu"]])
def test_an_ablation_that_is_named_like_a_run_is_refused(tmp_path: Path, more: list[str]) -> None:
    """Its runs would lie in that run's folder, and the report would see that run alone."""
    spec = write(tmp_path)
    train(tmp_path / "runs" / "loss")
    with pytest.raises(ConfigError, match=r"spec.yaml: .*loss is a run's directory; give the ablation another name:"):
        ablate.command([str(spec), *more])
    assert not list((tmp_path / "runs" / "loss").glob("dice*"))


@pytest.mark.law("L2")
def test_each_training_has_a_seed_of_its_own_that_variants_share(tmp_path: Path) -> None:
    _, members = expand(write(tmp_path), [])
    assert [member.cfg.name for member in members] == [
        f"{variant}-fold{fold}-repeat{repeat}" for repeat in (1, 2) for fold in (0, 1) for variant in ("dice", "bce")
    ]
    seeds = {(member.fold, member.repeat): member.cfg.seed for member in members}
    assert len(set(seeds.values())) == 4
    for member in members:
        assert member.seed == member.cfg.seed == seeds[member.fold, member.repeat]


def test_the_seed_of_a_repeat_is_the_same_in_all_versions(tmp_path: Path) -> None:
    """By the command line: printf '[42, 0, 1]' | sha256sum | head -c 8, read as a hexadecimal number."""
    assert seed_of_repeat(42, 0, 1) == 0x3F6FDE47
    first = expand(write(tmp_path), [])[1][0]
    assert first.seed == seed_of_repeat(42, 0, 1)
    assert expand(write(tmp_path), ["seed=7"])[1][0].seed == seed_of_repeat(7, 0, 1)
    without_folds = write(tmp_path, SPEC.replace("folds: [0, 1]\n", ""))
    assert expand(without_folds, [])[1][0].seed == seed_of_repeat(42, None, 1)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("repeats: 2", "repeats: 2\nseeds: [1]"), "has seeds and repeats; leave one out"),
        (("repeats: 2", "repeats: 0"), "repeats"),
        (("{loss: bce}", "{seed: 3}"), "variant bce sets seed"),
    ],
)
def test_what_does_not_go_with_repeats_is_refused(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expand(write(tmp_path, SPEC.replace(*change)), [])


def trained(folder: Path, spec: Path) -> None:
    """The spec's runs as training leaves them; the second variant is better by 0.1, and by a little more or less."""
    for place, member in enumerate(expand(spec, [])[1]):
        patients = tuple(f"p{member.fold}{number}" for number in range(5))
        shift = 0.1 * (member.variant == "bce") + 0.004 * ((place * 7) % 5)
        run = train(folder / member.cfg.name, shift, patients=patients)
        data = {"split": "kfold", "fold": member.fold}
        run.config_file.write_text(yaml.safe_dump(run.config_tree() | {"seed": member.seed, "data": data}))


def test_a_report_reads_seeds_from_the_configs_and_needs_no_second_test(tmp_path: Path) -> None:
    spec = write(tmp_path)
    trained(tmp_path / "runs" / "loss", spec)
    runs = collect([tmp_path / "runs" / "loss"])
    assert {(run.variant, run.fold, run.repeat, run.seed) for run in runs} == {
        (variant, fold, repeat, seed_of_repeat(42, fold, repeat))
        for variant in ("dice", "bce") for fold in (0, 1) for repeat in (1, 2)
    }  # fmt: skip
    assert not any(run.misnamed for run in runs)
    _, groups = by_variant(runs, "dice")
    (row,) = [row for row in compared(groups, "dice") if row.difference]
    assert row.difference is not None
    assert not row.difference.own.shares_seeds
    assert row.difference.p_seeds == row.difference.p
    assert row.verdict == "better on these folds"
    for language in TEXTS:
        make([tmp_path / "runs"], tmp_path / "out", language, baseline="dice")
        text = (tmp_path / "out" / "report.md").read_text()
        assert TEXTS[language]["method_own_seeds"] in text
        assert TEXTS[language]["method_seeds_alike"] not in text
        assert f"| {TEXTS[language]['fold']} | {TEXTS[language]['repeat']} | {TEXTS[language]['seed']} |" in text


def test_runs_of_common_seeds_have_the_table_that_they_had(tmp_path: Path) -> None:
    for fold in (0, 1):
        train(tmp_path / "runs" / f"dice-fold{fold}-seed1", patients=(f"p{fold}", f"q{fold}"))
    train(tmp_path / "runs" / "bce-fold0-seed1", 0.1, patients=("p0", "q0"))
    make([tmp_path / "runs"], tmp_path / "out", baseline="dice")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| fold | seed |" in text
    assert TEXTS["en"]["method_seeds_alike"] in text


def test_tables_have_the_repeat(tmp_path: Path) -> None:
    """Of runs that have not begun, too, and through a submission's record."""
    _, members = expand(write(tmp_path), [])
    (tmp_path / "runs" / "loss").mkdir(parents=True)
    table = write_results(members)
    (first, *_) = csv.DictReader(table.read_text().splitlines())
    assert (first["run"], first["seed"], first["repeat"]) == ("dice-fold0-repeat1", str(members[0].seed), "1")
    assert read_results(table.parent)["bce-fold1-repeat2"].repeat == 2
    train(tmp_path / "runs" / "loss" / members[0].cfg.name)
    planned = {run.name: run for run in collect([tmp_path / "runs" / "loss"])}["bce-fold1-repeat2"]
    assert (planned.variant, planned.fold, planned.repeat, planned.state) == ("bce", 1, 2, "none")
    rows = [
        {"variant": m.variant, "fold": m.fold, "seed": m.seed, "repeat": m.repeat, "name": m.cfg.name} for m in members
    ]
    taken = submission.create(str(tmp_path / "runs"), "loss", [m.cfg for m in members], Resources(), members=rows)
    before = table.read_text()
    ablation_report.write(str(taken.root))
    assert [line.partition(",")[2].split(",")[:4] for line in table.read_text().splitlines()] == [
        line.partition(",")[2].split(",")[:4] for line in before.splitlines()
    ]
