"""The benchmarks' baselines do the same work as ours, and the documents show what was measured."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_sources import volume_of
from PIL import Image

import benchmarks.__main__
from benchmarks import (
    compiling,
    gpu,
    gpu_engine,
    gpu_runs,
    gpu_ways,
    harness,
    metrics,
    publish,
    reference,
    waiting,
)
from benchmarks.gpu_shot import Shot
from segtrain.config import Config, ModelConfig
from segtrain.data.augment.geometry import warp
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources.phantom import phantom_patient
from segtrain.data.store import Store
from segtrain.engines.engine import make_engine
from segtrain.errors import RunError
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import World

ROOT = Path(__file__).resolve().parent.parent


def test_the_plain_preparation_gives_the_same_volume(tmp_path: Path) -> None:
    image, mask = phantom_patient(0, 1, 64)
    folder = tmp_path / "TCGA_XX_0001_20000101"
    folder.mkdir()
    for k, (plane, truth) in enumerate(zip(image, mask, strict=True), start=1):
        Image.fromarray(plane).save(folder / f"{folder.name}_{k}.tif")
        Image.fromarray(truth * 255).save(folder / f"{folder.name}_{k}_mask.tif")
    plain_image, plain_mask = reference.prepare(folder, 48)
    ours = preprocess(volume_of(image, mask), Preparation(48), where="here")
    assert np.abs(ours.image_shwc - plain_image).max() < 1e-4
    assert np.array_equal(ours.mask_shw.astype(bool), plain_mask)


def test_the_plain_augmentation_turns_and_flips_the_same_way() -> None:
    y, x = np.mgrid[:64, :64]
    blob = np.exp(-((y - 20.0) ** 2 + (x - 40.0) ** 2) / 60).astype(np.float32)
    angle = 12.0
    for flip in (False, True):
        plain, _ = reference.augment(np.stack([blob] * 3, axis=-1), blob > 0.5, 1.0, angle, flip)
        cos, sin, way = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle)), -1.0 if flip else 1.0
        affine = torch.tensor([[[cos * way, -sin, 0], [sin * way, cos, 0]]], dtype=torch.float32)
        ours, _ = warp(torch.from_numpy(blob)[None, None], torch.zeros(1, 1, 64, 64), affine)
        assert np.abs(ours[0, 0].numpy() - plain[..., 1]).max() < 0.02


def test_the_plain_step_has_the_same_losses() -> None:
    cfg = Config(model=ModelConfig(features=4))
    engine = make_engine(cfg, make_model(cfg.model, 0), make_loss(cfg.loss), World())
    plain = reference.Training(features=4)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = (image[:, :1] > 0.5).float()
    for _ in range(3):
        assert engine.step(image, mask, 1e-4).item() == pytest.approx(plain.step(image, mask), abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # MONAI's, of itself
@pytest.mark.parametrize("scene", metrics.SCENES)
def test_the_other_libraries_give_the_same_scores(scene: str) -> None:
    volumes = metrics.volumes(metrics.SCENES[scene], tiny=True)
    ours, monais, medpys = metrics.ours(*volumes), metrics.monais(*volumes), metrics.medpys(*volumes)
    assert monais.keys() < ours.keys()
    assert medpys.keys() - ours.keys() == {"pooled_hd95_mm"}, "medpy's percentile is of both directions together"
    assert metrics.disagreement(ours, monais) < 1e-5
    assert metrics.disagreement(ours, medpys) < 1e-5


def test_slices_on_a_gpu_are_not_copied_again_and_no_thread_is_waited_for(tiny: Config, tiny_store: Store) -> None:
    (_, copies, size, waits), (_, fewer_copies, smaller_size, no_waits) = gpu_ways.feeds(tiny, tiny_store).values()
    assert (waits, no_waits) == (1, 0)
    slices = tiny.train.global_batch * tiny_store.size_px**2 * (2 * len(tiny_store.contrasts) + 1) / 1e6
    assert float(size) > slices > 100 * float(smaller_size), "an index in place of slices"
    assert (copies, fewer_copies) == (3, 2), "in place of image and mask"


def test_the_thread_that_feeds_a_gpu_does_not_wait_for_it(tiny: Config, tiny_store: Store) -> None:
    """An evaluation with the same bits, pictures included."""
    plain, ours = gpu_ways.evaluations(tiny, tiny_store).values()
    assert (plain, ours) == ((2, 0), (0, 2))


def test_the_documents_show_the_figures_that_were_measured() -> None:
    for file in publish.PLACES:
        for path, text in publish.documents(file, json.loads(file.read_text())).items():
            assert path.read_text() == text, (
                f"{path}: not of {file.name}; python -m benchmarks.publish docs/{file.name}"
            )


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_a_folder_without_patients_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "kaggle_3m" / "patient").mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--lgg", str(tmp_path / name), "--folder", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        benchmarks.__main__.main()
    assert f"{name}: no folder with folders of patients; name one like kaggle_3m" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_row_runs_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "feed", "--tiny", "--repeat", "1", "--json", file, "--folder", tmp_path],
        check=True, cwd=ROOT, capture_output=True, timeout=120,
    )  # fmt: skip
    results = json.loads(file.read_text())
    assert [line["row"] for line in results["lines"]] == ["feed"]
    assert results["machine"]["cores"] >= 1


def test_the_start_on_a_gpu_is_the_first_step_of_data_that_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tiny size, on the CPU: what the clock sees."""
    prepared = []
    run = subprocess.run

    def watched(argv: list[str], **options: Any) -> Any:
        if "segtrain.train" in argv:
            prepared.append([path.name for path in tmp_path.glob("prepared/phantom-32px-*")])
        return run(argv, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    overrides = [*gpu_runs.TINY, *gpu_runs.QUICK, "train.epochs=1", "log_every_steps=1", "threads_per_rank=1"]
    trained = gpu_runs.train(Shot(cpu=True, folder=tmp_path), "start", *overrides)
    assert trained.code == 0, trained.errors
    assert len(prepared) == 1
    assert len(prepared[0]) >= 1, "the store is there before the command starts"
    assert 0 < float(trained.first_step_s) < trained.wall_s
    assert trained.figures()["dsc"]


def test_a_training_on_a_gpu_that_is_refused_or_late_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shot = Shot(cpu=True, folder=tmp_path)
    refused = gpu_runs.train(shot, "refused", "data.source=lgg", f"data.root={tmp_path}/nowhere")
    assert str(refused.first_step_s).startswith("code 2: ")
    assert "nowhere: no such folder" in refused.errors
    metrics = tmp_path / "runs" / "late" / "metrics.jsonl"

    def run(argv: list[str], timeout: float | None = None, **_: Any) -> Any:
        if timeout is None:
            return subprocess.CompletedProcess(argv, 0, "", "")
        metrics.parent.mkdir(parents=True)
        score = {"event": "evaluation", "time": 1.0, "val_dsc": 0.5}
        metrics.write_text(json.dumps(score) + '\n{"event": "tra')
        raise subprocess.TimeoutExpired(argv, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    late = gpu_runs.train(shot, "late", limit_s=7.0).figures()
    assert (late["code"], late["errors"], late["epochs"], late["dsc"]) == (-9, "killed after 7 s", 1, [0.5])


def test_memory_on_a_gpu_is_of_one_way_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for torch's counters."""
    peak = 0

    def reset(device: object) -> None:
        nonlocal peak
        peak = 0

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    cuda = torch.device("cuda")
    told = []
    for used_gib in (3, 1):
        gpu_engine.forget(cuda)
        peak = max(peak, used_gib * 2**30)
        told.append(gpu_engine.peak_gib(cuda))
    assert told == [3, 1]


def gpu_step(code: str, limit_s: float) -> dict[str, Any]:
    """What the runner of `benchmarks.gpu` takes from a step that does this."""
    figures: dict[str, Any] = {}
    gpu.run_step([sys.executable, "-uc", code], limit_s, figures.__setitem__)
    return figures


def test_what_a_step_on_a_gpu_found_stays_where_it_fails_or_is_late() -> None:
    result = json.dumps(["ms", 3])
    found = f"print('noise'); print('{gpu.MARK}{result}');"
    assert gpu_step(found, 60) == {"ms": 3}
    failed = gpu_step(f"{found} raise SystemExit('no such kernel')", 60)
    assert failed == {"ms": 3, "failed": {"code": 1, "errors": "no such kernel\n"}}
    late = gpu_step(f"{found} import subprocess; subprocess.run(['sleep', '600'])", 8)
    assert late == {"ms": 3, "late": "stopped after 8 s"}, "and what the step had started is gone"


def test_the_figures_of_a_gpu_are_in_the_file_after_each_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gpu.json"
    seen = []

    def run_step(command: list[str], limit_s: float, take: Any) -> None:
        assert limit_s <= 20
        for number in range(2):
            take(f"{command[-1]} {number}", number)
            seen.append(json.loads(file.read_text())["steps"])

    monkeypatch.setattr(gpu, "run_step", run_step)
    gpu.measure(["facts", "speed"], file, 20, ["--cpu"])
    assert seen[0] == {"facts": {"facts 0": 0}}
    assert list(json.loads(file.read_text())["steps"]["speed"]) == ["speed 0", "speed 1", "seconds"]
    gpu.measure(["facts"], file, 5, [])
    assert "no time was left" in json.loads(file.read_text())["steps"]["facts"]["late"]


def test_every_step_on_a_gpu_is_there() -> None:
    assert all(callable(gpu.step_of(name)) for name in gpu.LIMITS_S)
    for name in ("facts", "speed"):
        shot = Shot(cpu=True, folder=Path())
        assert dict(gpu.step_of(name)(shot))


def test_the_cost_of_a_command_is_that_of_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of its calls; a command that fails is no result."""
    child = "sum(range(10 ** 7))"
    commands = [("parent", ["-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{child}'])"])]
    monkeypatch.setattr(waiting, "prepared", lambda folder: [("pass", ["-c", "pass"]), *commands])
    (_, nothing, _), (name, cpu_s, wall_s) = waiting.rows(tmp_path, 2)
    assert name == "parent"
    assert float(wall_s) > 0
    assert float(cpu_s) > 2 * float(nothing)
    with pytest.raises(RunError, match=r"^-c exit\('no such run'\): no such run$"):
        waiting.cost(tmp_path, "-c", "exit('no such run')")


def _capability(world: object) -> Callable[[], str]:
    return torch.backends.cpu.get_cpu_capability


def test_a_machine_stands_for_one_of_narrower_units() -> None:
    """torch's own kernels, and its compiler, see those that the table names."""
    _, _, setting = compiling.UNITS["AVX2"]
    narrow = harness.Variant("narrow", _capability, environment=setting, threads=1)
    widest = torch.backends.cpu.get_cpu_capability()
    assert harness.measure([narrow], 1)["narrow"].values == ["AVX2" if widest.startswith("AVX") else widest]
    assert not {name for name, _ in setting} & os.environ.keys()


def test_the_table_of_the_compiler_compares_medians() -> None:
    eager = harness.Timings([4.0, 2.0, 8.0], [0.0, 0.0, 0.0], 1.0)
    compiled = harness.Timings([2.0, 1.0, 9.0], [30.0, 30.0, 30.0], 2.0)
    [row] = compiling.rows("AVX2", {"fp32 eager": eager, "fp32 compiled": compiled})
    assert row[2:] == ("4.00 img/s", "8.00 img/s", "2.00x", "30 s", "1.00 and 2.00 GiB")
