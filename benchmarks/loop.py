"""Rows start, train and evaluate: the whole program."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.data import config
from benchmarks.harness import Line, Options, Variant, Work, at_least, measure
from benchmarks.step import BATCH, engine_step
from segtrain.config import Config, ModelConfig, TrainConfig, to_yaml
from segtrain.data.prepare import ensure_store


def _first_step_s(cfg: Config, launcher: list[str]) -> float:
    """Seconds from the start of the process to the record of the first step; a STOP file then ends the run."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        config_file = Path(folder) / "config.yaml"
        config_file.write_text(to_yaml(replace(cfg, runs_dir=str(runs), log_every_steps=1, device="cpu")))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started = time.time()
        process = subprocess.Popen(
            [*launcher, "-m", "segtrain.train", "--config", str(config_file)], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        metrics = runs / cfg.name / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.read_text().endswith("\n")):
            time.sleep(0.02)
        first = json.loads(metrics.read_text().splitlines()[0])
        (runs / cfg.name / "STOP").touch()
        process.wait()
        return float(first["time"]) - started


def _import_s(what: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {what}"], check=True)
    return time.perf_counter() - started


def start(options: Options) -> list[Line]:
    """Process start to first step with an existing store, on all patients, and the share of the imports in it."""
    cfg = config(options, 32 if options.tiny else 128)
    cfg = replace(cfg, model=ModelConfig(features=8), name="bench")
    patients = len(ensure_store(cfg.data).patients)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeat):
        seconds["python"].append(_first_step_s(cfg, [sys.executable]))
        seconds["torchrun"].append(_first_step_s(cfg, torchrun))
        for what in ("torch", "torch._dynamo", "segtrain.train"):
            seconds[what].append(_import_s(what))
    medians = {name: median(values) for name, values in seconds.items()}
    imports = f"import torch: {medians['torch']:.1f} s"
    return [
        Line("start", f"{name} to first step, {patients} patients stored", f"{medians[key]:.1f} s", imports,
             f"{medians[key]:.1f} s", "under 8 s", medians[key] < 8)
        for name, key in (("one process", "python"), ("torchrun, 2 ranks,", "torchrun"))
    ] + [
        Line("start", "import torch._dynamo (torch's optimisers and DDP do), torch within",
             f"{medians['torch._dynamo']:.1f} s", imports, ""),
        Line("start", "import segtrain.train (without torch)", f"{medians['segtrain.train']:.2f} s", imports, ""),
    ]  # fmt: skip


def _timed(owner: Any, name: str, shares: dict[str, float], inside: list[str]) -> None:
    """Add the seconds that a method of `owner` takes to `shares[name]`, unless another timed method called it."""
    method: Callable[..., Any] = getattr(owner, name)

    def wrapper(*arguments: Any, **named: Any) -> Any:
        inside.append(name)
        started = time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            inside.pop()
            if not inside:
                shares[name] += time.perf_counter() - started

    setattr(owner, name, wrapper)


def _whole_loop(world: Any, cfg: Config) -> Work:
    from segtrain.data.order import plan_order
    from segtrain.run import Environment, Run
    from segtrain.run.checkpoint import Saver
    from segtrain.runtime.stop import Stop
    from segtrain.training.build import build
    from segtrain.training.loop import Loop
    from segtrain.training.micro_batch import MemoryGuard
    from segtrain.training.resume import resume
    from segtrain.training.start import Start

    store = ensure_store(cfg.data)
    split, _ = plan_order(cfg, store, 1)

    def work() -> dict[str, float]:
        shares: dict[str, float] = defaultdict(float)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder) / "run")
            run.open(cfg, split.to_json(), [], Environment.now(1, "cpu"))
            start = Start(cfg, run, world, Stop(), store, *plan_order(cfg, store, 1), *build(cfg, world, begun=False))
            memory = MemoryGuard(cfg.train, run, start.engine, world)
            loop = Loop(start, resume(start), memory, Saver(run, cfg.checkpoint.keep))
            inside: list[str] = []
            for name in ("_save", "_agree", "_evaluate"):
                _timed(loop, name, shares, inside)
            _timed(loop.log, "record", shares, inside)
            _timed(start.engine, "step", shares, inside)
            started = time.perf_counter()
            loop.run()
            shares["run"] = time.perf_counter() - started
            shares["steps"] = start.total_steps
        return dict(shares)

    return work


def train(options: Options) -> list[Line]:
    """The whole loop, compared with bare steps on one batch in memory."""
    size, features = (32, 4) if options.tiny else (128, 32)
    cfg = replace(
        config(options, size), model=ModelConfig(features=features), train=TrainConfig(epochs=1, global_batch=BATCH)
    )
    if options.lgg:  # an epoch of about twenty steps
        cfg = replace(cfg, data=replace(cfg.data, split="file", split_file=str(_small_split(cfg, options))))
    ensure_store(cfg.data)
    timings = measure(
        [Variant("loop", _whole_loop, (cfg,)), Variant("step", _twenty_steps, (size, features))],
        min(options.repeat, 2),
    )
    by_time = sorted(timings["loop"].values, key=lambda shares: shares["run"] - shares["_evaluate"])
    shares = by_time[len(by_time) // 2]
    loop_s = shares["run"] - shares["_evaluate"]
    bare = 20 * BATCH / timings["step"].median_s
    ours = shares["steps"] * BATCH / loop_s
    aside = sum(shares[name] for name in ("record", "_save", "_agree"))
    data = loop_s - shares["step"] - aside
    return [
        Line("train", f"whole loop, {size} px, evaluation apart", f"{ours:.2f} img/s", f"{bare:.2f} img/s",
             f"{ours / bare:.1%}", "at least 97%", ours / bare >= 0.97),
        Line("train", "its time in reading, augmenting and waiting for data", f"{data:.2f} s", f"{loop_s:.1f} s",
             f"{data / loop_s:.1%}", "at most 3%", data / loop_s <= 0.03),
        Line("train", "its time in logging, saving and agreeing to stop", f"{aside:.2f} s", f"{loop_s:.1f} s",
             f"{aside / loop_s:.1%}"),
    ]  # fmt: skip


def _twenty_steps(world: Any, size_px: int, features: int) -> Work:
    step = engine_step(world, size_px, features)
    return lambda: [step() for _ in range(20)]


def _small_split(cfg: Config, options: Options) -> Path:
    names = sorted(ensure_store(cfg.data).patients)
    file = options.folder / "split.json"
    file.write_text(json.dumps({"train": names[:12], "validation": names[12:14]}))
    return file


def _predict_all(network: Any) -> None:
    """Predict one component, as after training: an untrained network's ten thousand are too slow for medpy."""
    import torch

    with torch.no_grad():
        network.conv.weight.zero_()
        network.conv.bias.fill_(5.0)


def _evaluate_ours(world: Any, cfg: Config, patients: int, without_network: bool) -> Work:
    import torch

    from segtrain.engines.engine import make_engine
    from segtrain.evaluation.evaluate import score_patient
    from segtrain.evaluation.predictor import Predictor
    from segtrain.losses.loss import make_loss
    from segtrain.models.make import make_model

    store = ensure_store(cfg.data)
    loss = make_loss(cfg.loss)
    engine = make_engine(cfg, make_model(cfg.model, 0), loss, world)
    _predict_all(engine.network)
    names = sorted(store.patients)[:patients]

    def nothing(image: torch.Tensor) -> torch.Tensor:
        return image[:, :1]

    logits = nothing if without_network else engine.logits
    predictor = Predictor(logits, cfg.evaluate, world.device)

    def work() -> list[float]:
        scores = [score_patient(predictor, loss, store, name, draw=False)[0] for name in names]
        regions = [region for score in scores for region in score.regions.values()]
        return [one.scored.dsc for one in regions] + [one.all_components.dsc for one in regions]

    return work


def _evaluate_plainly(world: Any, cfg: Config, patients: int) -> Work:
    from benchmarks.reference import Training, evaluate

    store = ensure_store(cfg.data)
    network = Training(cfg.model.features).network
    _predict_all(network)

    def work() -> int:
        for patient in sorted(store.patients)[:patients]:
            evaluate(network, *store.volume(patient), cfg.evaluate.batch)
        return patients

    return work


def _scores(world: object, slices: int, ours: bool) -> Work:
    """Counts and largest component of an ellipsoid with specks, as many as early, later and last epochs predict."""
    import numpy as np

    from benchmarks.reference import score
    from segtrain.evaluation.metrics import count, largest_component

    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:slices, :256, :256]
    lesion = ((z - slices / 2) / 6) ** 2 + ((y - 120) / 30) ** 2 + ((x - 100) / 25) ** 2 < 1
    true = np.roll(lesion, 3, 1)
    volumes = [lesion | (rng.random(lesion.shape) < density) for density in (1e-3, 2e-5, 0)]

    def work() -> list[tuple[float, float]]:
        if ours:
            return [(count(v, true).dsc, count(largest_component(v), true).dsc) for v in volumes]
        return [score(v, true) for v in volumes]

    return work


def evaluate(options: Options) -> list[Line]:
    """Patients/s with the reference network; counts and components by themselves."""
    cfg = replace(config(options, 32 if options.tiny else 256), model=ModelConfig(features=4 if options.tiny else 32))
    ensure_store(cfg.data)
    patients = 2
    timings = measure(
        [
            Variant("ours", _evaluate_ours, (cfg, patients, False)),
            Variant("aside", _evaluate_ours, (cfg, patients, True)),
            Variant("plain", _evaluate_plainly, (cfg, patients), keep=False),
        ],
        options.repeat,
    )
    alone = measure(
        [Variant("ours", _scores, (33, True), threads=1), Variant("medpy", _scores, (33, False), threads=1)],
        options.repeat,
    )
    assert alone["ours"].values[0] == alone["medpy"].values[0], "the two ways give different scores"
    rate = {name: patients / t.median_s for name, t in timings.items()}
    forward = 1 - timings["aside"].median_s / timings["ours"].median_s
    component = alone["medpy"].median_s / alone["ours"].median_s
    return [
        at_least("evaluate", "counts and largest component, three volumes, equal scores",
                 f"{1000 * alone['ours'].median_s:.0f} ms", f"{1000 * alone['medpy'].median_s:.0f} ms", component, 5),
        Line("evaluate", f"patients scored, {cfg.data.image_size} px", f"{rate['ours']:.2f} patients/s",
             f"{rate['plain']:.2f} patients/s", f"{rate['ours'] / rate['plain']:.2f}x"),
        Line("evaluate", "its time in the network's forward pass", f"{timings['ours'].median_s:.2f} s",
             f"{timings['aside'].median_s:.2f} s without", f"{forward:.0%}", "more than half", forward > 0.5),
    ]  # fmt: skip
