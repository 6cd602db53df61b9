"""Steps of `benchmarks.gpu` by the command: trainings, evaluations, resuming, two ranks. Imports no torch."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_shot import Shot

Results = Iterator[tuple[str, Any]]
SHAPE = ["data.image_size=128", "data.phantom={patients: 24, size_px: 128}", "model.features=16"]
TINY = ["data.image_size=32", "data.phantom={patients: 8, size_px: 64}", "model.features=4"]
WHOLE = ["data.image_size=256", "data.phantom={patients: 60, size_px: 256}", "train.global_batch=16"]
QUICK = ["train.global_batch=8", "data.validation_patients=2", "optim.lr=1e-3", "optim.schedule=constant"]
MARGIN_S = 5.0  # of a step, to write down what a training has left
DAY_S = 86400.0
_prepared: set[tuple[str, ...]] = set()  # data of this process, by its settings


@dataclass(frozen=True)
class Trained:
    """A training by the command, and what its run says."""

    run: Path
    code: int
    began: float
    wall_s: float
    errors: str

    @property
    def events(self) -> list[dict[str, Any]]:
        file = self.run / "metrics.jsonl"  # whose last line is cut off where the training was killed
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def of(self, event: str, key: str) -> list[Any]:
        return [each[key] for each in self.events if each["event"] == event and key in each]

    @property
    def first_step_s(self) -> float | str:
        """From the command to the end of its first step, where every step is logged; why there was none."""
        times = self.of("train", "time")
        return round(float(times[0]) - self.began, 2) if times else f"code {self.code}: {self.errors}"

    def figures(self) -> dict[str, Any]:
        """How it went: code, time, scores, speed, the GPU's use."""
        rates = self.of("train", "images_per_s")
        use = [use for event in self.events if (use := event.get("resources", {}).get("gpu_percent")) is not None]
        return {
            "code": self.code,
            "wall_s": self.wall_s,
            "epochs": len(self.of("evaluation", "val_dsc")),
            "dsc": self.of("evaluation", "val_dsc")[-1:],
            "images_per_s": statistics.median(rates) if rates else None,
            "gpu_percent": use[-5:],
            "evaluation_s": [round(after["time"] - before["time"], 2) for before, after in self._evaluations()],
            "errors": self.errors if self.code else "",
        }

    def _evaluations(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        pairs = zip(self.events, self.events[1:], strict=False)
        return [(before, after) for before, after in pairs if after["event"] == "evaluation"]


def train(shot: Shot, name: str, *overrides: str, config: str | None = None, limit_s: float = math.inf) -> Trained:
    """Train by the command; the data is prepared before the clock starts. At the limit it is killed: code -9."""
    runs = shot.folder / "runs"
    arguments = [
        *(["--config", config] if config else []),
        *overrides,
        f"data.store={shot.folder / 'prepared'}",
        f"runs_dir={runs}",
        f"name={name}",
        f"device={'cpu' if shot.cpu else 'cuda'}",
        "watch.every_s=1",
    ]
    data = tuple(value for value in arguments if value.startswith("data.") or value in ("--config", config))
    if data not in _prepared:
        prepare = [sys.executable, "-m", "segtrain", "prepare", *data]
        done = subprocess.run(prepare, capture_output=True, text=True, check=False)
        if done.returncode:
            return Trained(runs / name, done.returncode, time.time(), 0.0, done.stderr[-600:])
        _prepared.add(data)
    began = time.time()
    command = [sys.executable, "-m", "segtrain.train", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=min(limit_s, DAY_S))
        code, errors = done.returncode, done.stderr[-600:]
    except subprocess.TimeoutExpired:
        code, errors = -9, f"killed after {limit_s:.0f} s"
    return Trained(runs / name, code, began, round(time.time() - began, 1), errors)


def command(shot: Shot) -> Results:
    """The command as users give it, in each precision, then evaluate."""
    shape = TINY if shot.cpu else SHAPE
    yield "first_step_s", train(shot, "start", *shape, *QUICK, "train.epochs=1", "log_every_steps=1").first_step_s
    trained = None
    for precision in ("fp32", "bf16") if shot.cpu else ("fp32", "tf32", "ieee", "fp16", "bf16"):
        more = ["train.epochs=2", "data.augment=strong", "optim.ema=0.9", "optim.clip_norm=1"]
        trained = train(shot, f"command-{precision}", *shape, *QUICK, *more, f"precision={precision}")
        yield precision, trained.figures()
    assert trained
    argv = [sys.executable, "-m", "segtrain", "evaluate", str(trained.run)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    yield "evaluate", {"code": done.returncode, "errors": done.stderr[-300:] if done.returncode else ""}


def repeat(shot: Shot) -> Results:
    """A run that was left and resumed against one that was left alone: the largest difference of their weights."""
    shape = TINY if shot.cpu else SHAPE
    for kind, deterministic in (("deterministic", "true"), ("plain", "false")):
        for precision in ("fp32",) if shot.cpu else ("fp32", "bf16"):
            settings = [
                *shape,
                *QUICK,
                f"precision={precision}",
                f"deterministic={deterministic}",
                "data.augment=strong",
                "data.copy_paste=0.5",
            ]
            name = f"{kind}-{precision}"
            alone = train(shot, f"{name}-alone", *settings, "train.epochs=2")
            train(shot, f"{name}-resumed", *settings, "train.epochs=1")
            resumed = train(shot, f"{name}-resumed", *settings, "train.epochs=2")
            yield f"{kind} {precision}", _largest_difference(alone, resumed)


def _largest_difference(one: Trained, other: Trained) -> float | list[str]:
    from safetensors.torch import load_file

    if one.code or other.code:
        return [one.errors, other.errors]
    ours, theirs = (
        load_file(max((trained.run / "checkpoints").glob("step-*")) / "model.safetensors") for trained in (one, other)
    )
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def loop(shot: Shot) -> Results:
    """The whole loop at full size: its images/s are to be read beside the bare step's."""
    shape = [*(TINY if shot.cpu else WHOLE), "data.validation_patients=2", "train.epochs=2"]
    if shot.cpu:
        shape.append("train.global_batch=8")
    for name, more in {"reference": [], "strong": ["data.augment=strong", "optim.ema=0.99"]}.items():
        yield f"bf16 {name}", train(shot, f"loop-{name}", *shape, *more, "precision=bf16").figures()


def lgg(shot: Shot) -> Results:
    """Twenty epochs of the reference protocol on real patients, and of the best recipe."""
    if shot.lgg is None:
        return
    configs = ("lgg", "lgg_best")
    for config in configs:  # each has its share of the step's time, so that one that is late leaves what it has
        more = [f"data.root={shot.lgg}", "data.published=redrawn", "train.epochs=20", "precision=bf16"]
        limit_s = (shot.left_s() - MARGIN_S) / (len(configs) - configs.index(config))
        yield config, train(shot, config, *more, config=config, limit_s=limit_s).figures()


def ranks(shot: Shot) -> Results:
    """One rank, and two on one GPU over gloo: losses with batch norm, which must agree."""
    for precision in ("fp32", "bf16"):
        for count in (1, 2):
            argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            argv += ["-m", "benchmarks.gpu_ranks", precision, "cpu" if shot.cpu else "cuda"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            lines = done.stdout.splitlines()
            yield f"{precision} on {count}", json.loads(lines[-1]) if not done.returncode else done.stderr[-500:]
