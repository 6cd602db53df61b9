"""`segtrain postprocess`: no patient of a fold has a part in its settings, and evaluate and predict use them (L1)."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import region_stores
import torch
from predictions import IMAGE, MASK, write_patient
from trainings import run_to_end

from segtrain.commands import evaluate, postprocess, predict
from segtrain.config import Config, EvaluateConfig, OptimConfig, Postprocessing, TrainConfig
from segtrain.data.store import Store
from segtrain.errors import RunError
from segtrain.evaluation import choice_by_fold
from segtrain.evaluation.chosen_settings import refuse_choosers, with_postprocessing, with_settings
from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.evaluation.evaluate import score_patient
from segtrain.evaluation.out_of_fold import OutOfFold
from segtrain.evaluation.predictor import Predictor
from segtrain.run import ChosenPostprocessing, Effect, Run, read_effects, read_postprocessing, write_postprocessing
from segtrain.runtime.process import run_command

FOLDS = 3
SETTINGS = Postprocessing(0.3, False, 5)
OVERRIDES = ("evaluate.threshold=0.3", "evaluate.largest_component=false", "evaluate.min_component_voxels=5")
QUICKLY = ("--geometry", "prepared", "--lesions", "none")


@pytest.fixture(scope="module")
def trained_folds(tiny: Config, tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs, each of which holds out other patients; `segtrain postprocess` has chosen their settings."""
    folder = tmp_path_factory.mktemp("folds")
    base = replace(tiny, train=TrainConfig(epochs=2, global_batch=4), optim=OptimConfig(lr=3e-3))
    roots = []
    for fold in range(FOLDS):
        data = replace(tiny.data, split="kfold", folds=FOLDS, fold=fold)
        roots.append(run_to_end(folder, replace(base, name=f"unet-fold{fold}-seed42", data=data), 1))
    assert postprocess.command([*map(str, roots)]) == 0
    return roots


@pytest.fixture
def folds(trained_folds: Sequence[Path], tmp_path: Path) -> list[Path]:
    """A copy of them that a test may change."""
    return [Path(shutil.copytree(root, tmp_path / "runs" / root.name)) for root in trained_folds]


def chosen_of(root: Path) -> ChosenPostprocessing:
    chosen = read_postprocessing(Run(root).postprocessing_settings)
    assert chosen is not None
    return chosen


def force(roots: Sequence[Path], settings: Postprocessing = SETTINGS, **changes: Any) -> None:
    """As if these settings had been chosen."""
    for root in roots:
        run, files = Run(root), []
        for path in (run.postprocessing_settings, run.postprocessing_of_all_folds):
            chosen = read_postprocessing(path)
            assert chosen is not None
            regions = {name: replace(choice, settings=settings) for name, choice in chosen.regions.items()}
            files.append(replace(chosen, regions=regions, **changes))
        write_postprocessing(run, files[0], files[1], read_effects(run))


def evaluated(out: Path, *arguments: object) -> tuple[list[dict[str, str]], dict[str, Any]]:
    assert evaluate.command([*map(str, arguments), *QUICKLY, "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    return rows, json.loads((out / "summary.json").read_text())


def refusal(capsys: pytest.CaptureFixture[str], command: Any, *arguments: object) -> str:
    assert run_command(command, [*map(str, arguments)]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.law("L1")
def test_the_patients_of_a_fold_have_no_part_in_the_settings_of_its_run(
    trained_folds: Sequence[Path], tiny_store: Store, tmp_path: Path
) -> None:
    everybody = set(tiny_store.patients)
    for fold, root in enumerate(trained_folds):
        chosen, own = chosen_of(root), set(Run(root).split()["validation"])
        assert set(chosen.patients) == everybody - own
        assert [member.run for member in chosen.members] == [root.name]
        assert chosen.folds == tuple(other for other in range(FOLDS) if other != fold)
        assert {effect.patient for effect in read_effects(Run(root))} == own
        every = read_postprocessing(Run(root).postprocessing_of_all_folds)
        assert every is not None
        assert set(every.patients) == everybody
        assert {choice.best.threshold for choice in every.regions.values()} == {0.5}, "a mean is another scale"
    shutil.copytree(tiny_store.path, tmp_path / "store")
    for patient in Run(trained_folds[0]).split()["validation"]:
        path = tmp_path / "store" / "masks" / f"{patient}.npy"
        np.save(path, np.roll(np.load(path), 7, axis=2))
    checkpoints = select_checkpoints(trained_folds, "best", [])
    changed = replace(tiny_store, path=tmp_path / "store", sha256={})
    choices, _ = choice_by_fold.choose_by_fold(checkpoints, changed)
    assert choices[0].chosen == chosen_of(trained_folds[0])
    write_postprocessing(Run(tmp_path / "again"), choices[0].chosen, choices[0].chosen, [])
    again, before = (Run(root).postprocessing_settings for root in (tmp_path / "again", trained_folds[0]))
    assert again.read_bytes() == before.read_bytes()
    assert choices[1].chosen != chosen_of(trained_folds[1]), "the changed masks count elsewhere, or this says nothing"


def test_the_effect_is_that_of_evaluate_on_people_who_did_not_choose(folds: list[Path], tmp_path: Path) -> None:
    effects = {effect.patient: effect for effect in read_effects(Run(folds[1]))}
    rows, _ = evaluated(tmp_path / "configured", folds[1], "--postprocessing", "configured")
    assert {row["patient"]: float(row["dsc"]) for row in rows} == {
        patient: pytest.approx(effect.dsc_as_configured, abs=1e-6) for patient, effect in effects.items()
    }
    rows, _ = evaluated(tmp_path / "chosen", folds[1])
    assert {row["patient"]: float(row["dsc"]) for row in rows} == {
        patient: pytest.approx(effect.dsc, abs=1e-6) for patient, effect in effects.items()
    }


def test_evaluate_uses_what_was_chosen_as_if_it_was_given_and_tells_both(folds: list[Path], tmp_path: Path) -> None:
    force(folds[:1])
    chosen, summary = evaluated(tmp_path / "chosen", folds[0])
    given, given_summary = evaluated(tmp_path / "given", folds[0], *OVERRIDES)
    plain, plain_summary = evaluated(tmp_path / "plain", folds[0], "--postprocessing", "configured")
    assert [{key: row[key] for key in given[0]} for row in chosen] == given
    assert summary["settings"] == given_summary["settings"] != plain_summary["settings"]
    assert [row["dsc_as_configured"] for row in chosen] == [row["dsc"] for row in plain]
    assert [row["dsc"] for row in chosen] != [row["dsc"] for row in plain], "the settings matter, or this says nothing"
    for row in chosen:
        assert float(row["dsc_gain"]) == pytest.approx(float(row["dsc"]) - float(row["dsc_as_configured"]), abs=2e-6)
    means = summary["not_trained_on"]
    assert means["dsc_as_configured"]["mean"] == plain_summary["not_trained_on"]["dsc"]["mean"]
    assert means["dsc_gain"]["n"] == len(chosen)
    assert summary["postprocessing"]["regions"]["lesion"]["settings"] == asdict(SETTINGS)
    assert summary["postprocessing"]["folds"] == [1, 2]
    for other in (given_summary, plain_summary):
        assert "postprocessing" not in other
        assert "dsc_gain" not in other["not_trained_on"]
    assert evaluate.command([str(folds[0]), *QUICKLY]) == 0
    assert Run(folds[0]).evaluation("validation", "best", postprocessed=True).is_dir()
    assert not Run(folds[0]).evaluation("validation", "best").exists(), "scores as configured have their own folder"


def test_predict_uses_it_too(folds: list[Path], tmp_path: Path) -> None:
    force(folds[:1])
    write_patient(tmp_path / "in", "P", IMAGE, MASK)
    masks = {}
    for name, arguments in {"chosen": (), "given": OVERRIDES, "plain": ("--postprocessing", "configured")}.items():
        out = tmp_path / name
        assert predict.command([str(folds[0]), *arguments, "--images", str(tmp_path / "in"), "--out", str(out)]) == 0
        masks[name] = [path.read_bytes() for path in sorted((out / "masks").rglob("*.tif"))]
    assert masks["chosen"] == masks["given"] != masks["plain"]


def test_it_holds_for_the_checkpoint_and_views_that_it_was_chosen_with(
    folds: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    force(folds)
    run = Run(folds[0])
    (checkpoint,) = select_checkpoints([run.root], "best", [])
    used = with_postprocessing([checkpoint], "auto", [])
    assert used.chosen == chosen_of(run.root)
    assert used.checkpoints[0].cfg.evaluate.of("lesion") == SETTINGS
    assert used.checkpoints[0].configured == checkpoint.cfg.evaluate
    flips = replace(checkpoint, cfg=replace(checkpoint.cfg, evaluate=EvaluateConfig(tta="flips")))
    other_step = next(step for step in run.saved_steps() if run.checkpoint(step) != checkpoint.folder)
    later = replace(checkpoint, folder=run.checkpoint(other_step))
    for other, reason in ((flips, "evaluate.tta=none, not flips"), (later, "trained on since")):
        caplog.clear()
        unused = with_postprocessing([other], "auto", [])
        assert (unused.checkpoints, unused.chosen) == ([other], None)
        assert "as configured, not as chosen" in caplog.text
        assert reason in caplog.text
        with pytest.raises(RunError, match=reason):
            with_postprocessing([other], "chosen", [])
    caplog.clear()
    assert with_postprocessing([checkpoint], "auto", ["evaluate.threshold=0.4"]).chosen is None
    assert "evaluate.threshold is given" in caplog.text


def test_an_ensemble_of_folds_has_the_settings_of_all_folds(
    folds: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    force(folds)
    members = select_checkpoints(folds, "best", [])
    assert with_postprocessing(members, "auto", []).chosen is None, "nobody is left who could test them"
    assert "--postprocessing chosen uses what single networks" in caplog.text
    used = with_postprocessing(members, "chosen", [])
    assert used.chosen is not None
    assert used.chosen.folds == (0, 1, 2)
    assert [one.cfg.evaluate.of("lesion") for one in used.checkpoints] == [SETTINGS] * FOLDS
    assert with_postprocessing(members[1:], "chosen", []).chosen == used.chosen
    force(folds[:1], replace(SETTINGS, threshold=0.7))
    assert with_postprocessing(members, "auto", []).chosen is None
    assert "did not choose it together" in caplog.text
    two_seeds = [replace(member, fold=0) for member in used.chosen.members[:2]]
    force(folds[:2], members=tuple(two_seeds))
    assert with_postprocessing(members[:2], "auto", []).chosen is not None
    caplog.clear()
    assert with_postprocessing(members[:1], "auto", []).chosen is None
    assert "chosen for the ensemble of 2 seeds" in caplog.text
    shutil.rmtree(Run(folds[2]).postprocessing)
    assert with_postprocessing(members, "auto", []).chosen is None
    assert f"{folds[2]} has none" in caplog.text


@pytest.mark.law("L1")
def test_patients_who_chose_do_not_score_it(folds: list[Path]) -> None:
    checkpoints = select_checkpoints(folds[:1], "best", [])
    chosen, own = chosen_of(folds[0]), Run(folds[0]).split()["validation"]
    refuse_choosers(chosen, own, (), checkpoints)
    refuse_choosers(chosen, chosen.patients, chosen.patients, checkpoints)  # marked as trained on
    refuse_choosers(None, chosen.patients, (), checkpoints)
    with pytest.raises(RunError, match=r"had a part in choosing.*--postprocessing configured"):
        refuse_choosers(chosen, [*own, chosen.patients[0]], (), checkpoints)


def test_where_nothing_better_was_found_all_is_as_configured(folds: list[Path], tmp_path: Path) -> None:
    force(folds[:1], EvaluateConfig().of("lesion"))
    rows, summary = evaluated(tmp_path / "out", folds[0])
    assert "dsc_gain" not in rows[0]
    assert "postprocessing" not in summary


def test_what_cannot_be_chosen_or_used_is_named(
    folds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Run(folds[0]).postprocessing_settings.read_bytes()
    assert "runs of 2 folds cannot choose" in refusal(capsys, postprocess.command, *folds[:2])
    message = refusal(capsys, postprocess.command, *folds, "evaluate.threshold=0.4")
    assert "evaluate.threshold: fixed by the run" in message
    assert Run(folds[0]).postprocessing_settings.read_bytes() == before
    out = ("--out", tmp_path / "out")
    message = refusal(capsys, evaluate.command, folds[0], "--postprocessing", "chosen", "evaluate.threshold=0.4", *out)
    assert "evaluate.threshold: --postprocessing chosen sets it too" in message
    for damage in ('{"version": 1', '{"version": 2}', '{"version": 1, "members": [{"run": 3}]}', "[]"):
        Run(folds[0]).postprocessing_settings.write_text(damage)
        message = refusal(capsys, evaluate.command, folds[0], *out)
        assert f"{Run(folds[0]).postprocessing_settings}: cannot be read" in message
        assert "--postprocessing configured" in message
    shutil.rmtree(Run(folds[0]).postprocessing)
    message = refusal(capsys, evaluate.command, folds[0], "--postprocessing", "chosen", *out)
    assert "has none" in message
    assert "run segtrain postprocess" in message
    assert not (tmp_path / "out").exists()


def test_regions_have_settings_of_their_own_and_unknown_voxels_count_nowhere(
    trained_folds: Sequence[Path], tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against `score_patient`, which scores in training."""
    store = region_stores.store_of_regions(tiny_store, tmp_path)
    checkpoints = []
    for one in select_checkpoints(trained_folds, "best", []):
        evaluation = EvaluateConfig(threshold={"whole": 0.4}, largest_component={"core": False}, pictures=0)
        checkpoints.append(replace(one, cfg=replace(one.cfg, evaluate=evaluation, data=store.resolved(one.cfg.data))))
    cfg = checkpoints[0].cfg
    predictor = Predictor(region_stores.logits, cfg.evaluate, torch.device("cpu"), layout=region_stores.LAYOUT)

    def predicted(members: Sequence[TrainedCheckpoint], store: Store) -> Any:
        for one in members:
            for patient in sorted(one.validation):
                image, mask = store.volume(patient)
                probability = predictor.probability(image, mask)
                yield OutOfFold(patient, one.cfg.data.fold, one.run.root, image, mask, probability)

    monkeypatch.setattr(choice_by_fold, "out_of_fold", predicted)
    choices, all_folds = choice_by_fold.choose_by_fold(checkpoints, store)
    assert list(all_folds.regions) == list(region_stores.REGIONS)
    effects: list[Effect] = [effect for choice in choices for effect in choice.effects]
    for patient in sorted(store.patients):
        score, *_ = score_patient(predictor, None, store, patient, draw=False)
        own = {effect.region: effect for effect in effects if effect.patient == patient}
        assert {region: effect.dsc_as_configured for region, effect in own.items()} == {
            region: counts.scored.dsc for region, counts in score.regions.items()
        }
    for choice, one in zip(choices, checkpoints, strict=True):
        settings = {region: chosen.settings for region, chosen in choice.chosen.regions.items()}
        assert settings["whole"] != cfg.evaluate.of("whole"), "another is chosen, or this says nothing"
        ours = replace(predictor, cfg=with_settings(cfg.evaluate, settings))
        for patient in one.validation:
            score, *_ = score_patient(ours, None, store, patient, draw=False)
            as_chosen = {effect.region: effect.dsc for effect in choice.effects if effect.patient == patient}
            assert as_chosen == {region: counts.scored.dsc for region, counts in score.regions.items()}
