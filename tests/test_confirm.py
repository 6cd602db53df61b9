"""A search's best variant is confirmed on patients that took no part in choosing it: the folds, refusals."""

import json
from pathlib import Path

import pytest
from searches import PATIENTS, SHIFTS, SPEC, confirmed, searched, trained, write

from jobs import ablate
from segtrain.data.folds import fold_of
from segtrain.errors import BaselineIsBest, ConfigError, NoFoldLeft, RunError, SegtrainError
from segtrain.run import expand, write_record
from segtrain.run.ablation import seed_of_repeat


@pytest.mark.law("L1")
def test_the_best_and_the_baseline_are_trained_on_the_other_folds(tmp_path: Path) -> None:
    searched(write(tmp_path))
    confirmation = confirmed(tmp_path / "spec.yaml")
    assert [member.cfg.name for member in confirmation.members] == [
        f"{variant}-fold{fold}-seed42" for fold in (0, 1, 2) for variant in ("dice", "focal")
    ]
    assert {member.run.root.parent for member in confirmation.members} == {tmp_path / "runs" / "search-confirm"}
    assert {member.cfg.data.split_version for member in confirmation.members} == {2}, "that of the search's runs"
    search = confirmation.record.search
    assert search is not None
    assert (search.name, search.chosen, search.baseline, search.variants) == ("search", "focal", "dice", 3)
    in_search = {patient for patient in PATIENTS if fold_of(patient, 5, 42) in (3, 4)}
    assert set(search.patients) == in_search


def test_a_confirmation_may_have_folds_repeats_and_settings_of_its_own(tmp_path: Path) -> None:
    more = "confirm: {folds: [1], repeats: 2, overrides: {data.image_size: 96}}\n"
    searched(write(tmp_path, SPEC + more))
    members = confirmed(tmp_path / "spec.yaml").members
    assert [(member.variant, member.cfg.seed) for member in members] == [
        (variant, seed_of_repeat(42, 1, repeat)) for repeat in (1, 2) for variant in ("dice", "focal")
    ]
    assert {member.cfg.data.image_size for member in members} == {96}
    assert {member.cfg.data.image_size for member in expand(tmp_path / "spec.yaml", [])[1]} == {64}


def test_several_seeds_choose_together_and_confirm(tmp_path: Path) -> None:
    """focal is best with seed 1 alone, bce over both."""
    path = write(tmp_path, SPEC.replace("folds: [3, 4]", "folds: [3]\nseeds: [1, 2]"))
    for member in expand(path, [])[1]:
        trained(
            member, {"focal1": 0.2, "focal2": -0.2, "bce1": 0.1, "bce2": 0.1}.get(f"{member.variant}{member.seed}", 0)
        )
    members = confirmed(path).members
    assert {(member.variant, member.fold, member.seed) for member in members} == {
        (variant, fold, seed) for variant in ("dice", "bce") for fold in (0, 1, 2, 4) for seed in (1, 2)
    }


def test_a_variant_with_a_failed_run_is_not_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    searched(write(tmp_path), states={"focal-fold4-seed42": "diverged"})
    search = confirmed(tmp_path / "spec.yaml").record.search
    assert search is not None
    assert (search.chosen, search.variants) == ("bce", 3)
    assert "focal is left out of the choice" in caplog.text


def test_the_patients_of_variants_that_left_the_spec_took_part(tmp_path: Path) -> None:
    old = SPEC.replace("folds: [3, 4]", "folds: [0]").replace("focal: {loss: focal}", "tversky: {loss: tversky}")
    for member in expand(write(tmp_path, old), [])[1]:
        trained(member, 0.0)
    searched(write(tmp_path))
    confirmation = confirmed(tmp_path / "spec.yaml")
    assert {member.fold for member in confirmation.members} == {1, 2}
    search = confirmation.record.search
    assert search is not None
    assert search.variants == 4


def _all_folds(folder: Path) -> None:
    searched(write(folder, SPEC.replace("[3, 4]", "[0, 1, 2, 3, 4]")))


def _no_folds(folder: Path) -> None:
    write(folder, SPEC.replace("folds: [3, 4]\n", ""))


def _not_ended(folder: Path) -> None:
    searched(write(folder), states={"focal-fold4-seed42": "stopped"})


def _baseline_is_best(folder: Path) -> None:
    searched(write(folder), shifts={variant: -shift for variant, shift in SHIFTS.items()})


def _confirm_a_fold_of_before(folder: Path) -> None:
    searched(write(folder, SPEC + "confirm: {folds: [2]}\n"))
    member = expand(write(folder, SPEC.replace("[3, 4]", "[2]") + "confirm: {folds: [1]}\n"), [])[1][0]
    trained(member, 0.0)
    write(folder, SPEC + "confirm: {folds: [2]}\n")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("prepare", "error", "words"),
    [
        (_all_folds, NoFoldLeft, "used all 5 folds, so no patient is left to confirm focal"),
        (_no_folds, NoFoldLeft, "has no folds"),
        (_not_ended, RunError, r"1 runs have not ended \(focal-fold4-seed42\)"),
        (_baseline_is_best, BaselineIsBest, "dice, the baseline, is the best of 3; there is nothing to confirm"),
        (_confirm_a_fold_of_before, ConfigError, "runs of the search have used fold 2"),
    ],
)
def test_what_cannot_be_confirmed_is_refused(
    tmp_path: Path, prepare: object, error: type[SegtrainError], words: str
) -> None:
    assert callable(prepare)
    prepare(tmp_path)
    with pytest.raises(error, match=words) as caught:
        confirmed(tmp_path / "spec.yaml")
    assert caught.type is error


@pytest.mark.law("L12")
def test_what_confirm_sets_wrongly_is_refused_before_the_search(tmp_path: Path) -> None:
    for section, words in (
        ("overrides: {optim.lrr: 1}", "unknown key optim.lrr"),
        ("folds: [7]", "data.fold=7 does not"),
    ):
        with pytest.raises(ConfigError, match=f"spec.yaml: confirm: variant dice: {words}"):
            ablate.command([str(write(tmp_path, SPEC + f"confirm: {{{section}}}\n")), "--dry-run"])


@pytest.mark.law("L1")
def test_a_patient_that_took_part_is_refused_by_name(tmp_path: Path) -> None:
    searched(write(tmp_path))
    with pytest.raises(RunError, match=r"patient P\d\d\d took part in choosing focal \(\d+ such patients"):
        confirmed(tmp_path / "spec.yaml", "data.split_seed=7")


@pytest.mark.law("L1")
def test_folds_by_prepared_masks_are_confirmed_with_the_data_of_the_search_alone(tmp_path: Path) -> None:
    """By version 1, another image size moves patients between folds."""
    for member in searched(write(tmp_path, SPEC + "confirm: {overrides: {data.image_size: 96}}\n")):
        tree = json.loads(member.run.split_file.read_text())
        member.run.split_file.write_text(json.dumps(tree | {"version": 1}))
    with pytest.raises(RunError, match=r"data\.split_version=1 deals patients by their prepared masks"):
        confirmed(tmp_path / "spec.yaml")
    write(tmp_path)
    assert {member.cfg.data.split_version for member in confirmed(tmp_path / "spec.yaml").members} == {1}


def test_another_choice_has_a_folder_of_its_own(tmp_path: Path) -> None:
    searched(write(tmp_path))
    confirmation = confirmed(tmp_path / "spec.yaml")
    folder = confirmation.members[0].run.root.parent
    folder.mkdir()
    write_record(folder, confirmation.record)
    assert confirmed(tmp_path / "spec.yaml").record == confirmation.record, "the same command goes on"
    write(tmp_path, SPEC.replace("  focal: {loss: focal}\n", ""))
    with pytest.raises(RunError, match="confirms focal, and search chooses bce now"):
        confirmed(tmp_path / "spec.yaml")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("confirm: {folds: [3]}\n", "confirm.folds: fold 3 is one of the search's"),
        ("confirm: {folds: [1, 1]}\n", "confirm.folds: 1 is listed twice"),
        ("confirm: {seeds: [1], repeats: 2}\n", "has seeds and repeats"),
        ("confirm: {fold: [1]}\n", "fold"),
        ("confirm: {overrides: {name: x}}\n", "confirm.overrides sets name"),
    ],
)
def test_what_is_wrong_with_the_section_is_said_before_the_search(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expand(write(tmp_path, SPEC + more), [])
