"""What a few measured steps say about the whole run: the micro-batch that fits, hours, cost, bytes on disk."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from segtrain.config import Config, to_yaml
from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime.terminal import duration

TRIAL_S = 180.0
KEPT = 0.9  # of the memory that is available, the rest is for others
MOMENTS = 3  # copies of the weights in a checkpoint, the weights included
GIB = 2**30
CGROUPS = (  # folder, limit, use (with the page cache), what of that cache is given up when it is needed
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Work:
    """How much there is to do: slices of the patients that train and that validate, known or estimated."""

    train_slices: int
    validation_slices: int
    exact: bool


def trial(cfg: Config, ranks: int) -> tuple[list[dict[str, Any]], str]:
    """What `doctor.trial` measured in a process of its own, and its last words."""
    with tempfile.TemporaryDirectory(prefix="segtrain-doctor-") as folder:
        file = Path(folder, "config.yaml")
        file.write_text(to_yaml(cfg))
        command = [sys.executable, "-m", "segtrain.doctor.trial", str(file), str(ranks)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_S, check=False,
                                  env={**os.environ, "TMPDIR": folder})  # fmt: skip
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            return _lines(said), f"no step in {TRIAL_S:.0f} s"
    words = done.stderr.strip().splitlines()
    if done.returncode < 0:
        words.append(f"ended by signal {-done.returncode}" + (" (out of memory?)" if done.returncode == -9 else ""))
    return _lines(done.stdout), (words[-1] if words and done.returncode else "")


def check(
    cfg: Config, ranks: int, work: Work | None, lines: Sequence[dict[str, Any]], words: str, price: float | None
) -> Iterator[Finding]:
    """Of what was measured."""
    fitting = [line for line in lines if line["fits"]]
    share = cfg.train.global_batch // ranks
    if not fitting:
        short = any(not line["fits"] for line in lines) or "signal 9" in words
        remedy = "model.checkpoint_activations=true, a smaller data.image_size or model.features" if short else (
            "the training would fail in the same way; see the message")  # fmt: skip
        yield failure("memory", "not even one sample fits" if short else f"no step can be taken: {words}", remedy)
        return
    device_is_cpu = len(fitting) == len(lines) and "cpu" in fitting[0]["device"]
    if device_is_cpu:
        yield cpu_memory(cfg, share, ranks, fitting, available_bytes())
    else:
        yield gpu_memory(cfg, share, lines)
    if work is not None:
        asked = cfg.train.micro_batch or share
        yield time_and_cost(cfg, ranks, work, next((n for n in fitting[::-1] if n["size"] <= asked), fitting[0]), price)


def cpu_memory(cfg: Config, share: int, ranks: int, lines: Sequence[dict[str, Any]], free_bytes: float) -> Finding:
    """The largest micro-batch for which memory suffices, on a line through what was measured."""
    asked = min(cfg.train.micro_batch or share, share)
    first, last = lines[0], lines[-1]
    slope = (last["peak_bytes"] - first["peak_bytes"]) / max(1, last["size"] - first["size"])
    base = last["peak_bytes"] - slope * last["size"]
    room = KEPT * free_bytes / ranks
    needed = base + slope * asked
    how = "measured" if last["size"] >= asked else f"told from steps of up to {last['size']}"
    said = f"{needed / GIB:.1f} GiB a rank with {asked} samples at once ({how}), {room / GIB:.1f} GiB there"
    fits = next((size for size in (share, *_halves(share)) if base + slope * size <= room), 0)
    if needed <= room:
        return ok("memory", said if fits <= asked else f"{said}; up to {fits} would fit")
    fits = next((size for size in _halves(asked) if base + slope * size <= room), 0)
    if not fits:
        return failure(
            "memory", f"{said}; not even one sample fits",
            "use fewer ranks, a smaller data.image_size or model.features, model.checkpoint_activations=true",
        )  # fmt: skip
    return failure(
        "memory", f"{said}: the system would kill the training",
        f"train.micro_batch={fits} ({-(-share // fits)} times a step: train.global_batch={cfg.train.global_batch} "
        "stays), or fewer ranks",
    )  # fmt: skip


def gpu_memory(cfg: Config, share: int, lines: Sequence[dict[str, Any]]) -> Finding:
    """What was measured to fit: of the sizes tried the largest, and the one that the config asks for."""
    asked = min(cfg.train.micro_batch or share, share)
    fitting = [line for line in lines if line["fits"]]
    largest, used = fitting[0], fitting[-1]
    said = f"{used['peak_bytes'] / GIB:.1f} GiB with {used['size']} samples at once (measured)"
    if largest["size"] > used["size"]:
        return ok("memory", f"{said}; up to {largest['size']} fit, in {largest['peak_bytes'] / GIB:.1f} GiB")
    if largest["size"] >= asked:
        return ok("memory", said)
    times = f"{-(-share // largest['size'])} times a step keep the global batch of {cfg.train.global_batch}"
    remedy = f"set train.micro_batch={largest['size']} ({times})"
    if cfg.train.on_oom == "halve":
        return warning("memory", f"{said}; {asked} do not fit: the training will halve", remedy)
    return failure("memory", f"{said}; {asked} do not fit", remedy)


def time_and_cost(cfg: Config, ranks: int, work: Work, line: dict[str, Any], price: float | None) -> Finding:
    """Of all epochs, training and scoring; without the start and what a slow disk adds."""
    steps = max(1, work.train_slices // cfg.train.global_batch) * cfg.train.epochs
    share = cfg.train.global_batch // ranks
    step_s = line["step_s"] / line["size"] * share
    if (cfg.train.micro_batch or share) < share:
        step_s *= 4 / 3  # a pass forward before the others gathers the loss's sums
    scorings = -(-cfg.train.epochs // cfg.evaluate.every_epochs)
    scoring_s = scorings * work.validation_slices * line["score_s"] / line["size"] / ranks
    total_s = steps * step_s + scoring_s
    rate = cfg.train.global_batch / step_s
    said = (
        f"about {duration(total_s)} for {cfg.train.epochs} epochs: {steps} steps of {step_s:.2f} s "
        f"({rate:.1f} images/s), {duration(scoring_s)} of it scoring"
        + ("" if work.exact else "; slices estimated from three patients")
    )
    if price is not None:
        said += f"; costs about {price * total_s / 3600:.2f} at {price:g} an hour"
    if cfg.stop.deadline is None:
        return ok("forecast", said)
    return ok("forecast", f"{said}; it stops at stop.deadline={cfg.stop.deadline} and goes on when started again")


def checkpoint_bytes(cfg: Config, parameters: int) -> int:
    """Of the run directory: weights and moments of each checkpoint that is kept, one more while it is written, BEST."""
    return (cfg.checkpoint.keep + 2) * MOMENTS * 4 * parameters + 100 * 2**20


def available_bytes() -> float:
    """Memory that new processes of this machine, or of this container, can have."""
    free = float(psutil.virtual_memory().available)
    for folder, limit, used, cache in CGROUPS:
        try:
            most, now = (int(Path(folder, name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            free = min(free, most - now + int(stat.get(cache, 0)))
        except (OSError, ValueError):  # another version, or `max`
            continue
    return free


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size = (size + 1) // 2
        yield size


def _lines(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith('{"')]
