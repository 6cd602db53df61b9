"""Forecast of a whole run from a few measured steps: the micro-batch that fits, hours, cost, bytes on disk."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from segtrain.config import CheckpointConfig, Config, to_yaml
from segtrain.doctor.finding import Finding, failure, ok, warning
from segtrain.runtime.terminal import duration

TRIAL_S = 180.0
USABLE = 0.9  # of the available memory; the rest is for other processes
SHORT_STEP_S = 0.5  # beside which the exchange between ranks, which a trial of one has not, is no trifle
COPIES = 3  # of the weights in a checkpoint: the weights and two moments
GIB = 2**30
CGROUPS = (  # folder, limit, use (with the page cache), the part of that cache that can be reclaimed
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Work:
    """Slices of the patients that train and that validate, known or estimated."""

    train_slices: int
    validation_slices: int
    exact: bool


@dataclass(frozen=True)
class Measurement:
    """A micro-batch of `size` samples on one rank: seconds of a step and of scoring it, peak memory of the process."""

    device: str
    parameters: int
    size: int
    fits: bool
    step_s: float = 0.0
    score_s: float = 0.0
    peak_bytes: float = 0.0


@dataclass(frozen=True)
class Trial:
    """What `doctor.trial` measured; `error` is its last message where it failed."""

    measurements: tuple[Measurement, ...] = ()
    error: str = ""

    @property
    def parameters(self) -> int:
        """Weights of the network; 0 where nothing was measured."""
        return self.measurements[0].parameters if self.measurements else 0

    @property
    def fitting(self) -> tuple[Measurement, ...]:
        """Sizes that fitted into memory."""
        return tuple(measurement for measurement in self.measurements if measurement.fits)


def run_trial(cfg: Config, ranks: int) -> Trial:
    """Run `doctor.trial` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="segtrain-doctor-") as folder:
        file = Path(folder, "config.yaml")
        file.write_text(to_yaml(cfg), encoding="utf-8")
        command = [sys.executable, "-m", "segtrain.doctor.trial", str(file), str(ranks)]
        environment = {**os.environ, "TMPDIR": folder}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TRIAL_S, check=False, env=environment
            )
        except subprocess.TimeoutExpired as late:
            output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            return Trial(_measurements(output), f"no step in {TRIAL_S:.0f} s")
    lines = done.stderr.strip().splitlines()
    if done.returncode < 0:
        lines.append(f"ended by signal {-done.returncode}" + (" (out of memory?)" if done.returncode == -9 else ""))
    return Trial(_measurements(done.stdout), lines[-1] if lines and done.returncode else "")


def _measurements(output: str) -> tuple[Measurement, ...]:
    return tuple(Measurement(**json.loads(line)) for line in output.splitlines() if line.startswith('{"'))


def check(cfg: Config, ranks: int, work: Work | None, trial: Trial, price: float | None) -> Iterator[Finding]:
    """Memory, and where the amount of `work` is known, time and cost."""
    share = cfg.train.global_batch // ranks
    if not trial.fitting:
        yield _nothing_fits(trial)
        return
    if trial.fitting[0].device == "cpu":
        yield cpu_memory(cfg, share, ranks, trial.fitting, available_bytes())
    else:
        yield gpu_memory(cfg, share, trial.measurements)
    if work is not None:
        requested = cfg.train.micro_batch or share
        largest_first = trial.fitting[::-1]
        measured = next((each for each in largest_first if each.size <= requested), trial.fitting[0])
        yield time_and_cost(cfg, ranks, work, measured, price)


def _nothing_fits(trial: Trial) -> Finding:
    if trial.measurements or "signal 9" in trial.error:
        remedy = "model.checkpoint_activations=true, a smaller data.image_size or model.features"
        return failure("memory", "not even one sample fits", remedy)
    remedy = "see the message; the training would fail in the same way"
    return failure("memory", f"no step can be taken: {trial.error}", remedy)


def cpu_memory(cfg: Config, share: int, ranks: int, measurements: Sequence[Measurement], free_bytes: float) -> Finding:
    """The largest micro-batch that fits, by a straight line through the measured sizes."""
    requested = min(cfg.train.micro_batch or share, share)
    first, last = measurements[0], measurements[-1]
    bytes_a_sample = (last.peak_bytes - first.peak_bytes) / max(1, last.size - first.size)
    base_bytes = last.peak_bytes - bytes_a_sample * last.size
    room_bytes = USABLE * free_bytes / ranks

    def largest_that_fits(sizes: Sequence[int]) -> int:
        return next((size for size in sizes if base_bytes + bytes_a_sample * size <= room_bytes), 0)

    needed_bytes = base_bytes + bytes_a_sample * requested
    how = "measured" if last.size >= requested else f"extrapolated from steps of up to {last.size}"
    message = (
        f"{needed_bytes / GIB:.1f} GiB a rank with {requested} samples at once ({how}), "
        f"{room_bytes / GIB:.1f} GiB available"
    )
    if needed_bytes <= room_bytes:
        fits = largest_that_fits([share, *_halves(share)])
        return ok("memory", message if fits <= requested else f"{message}; up to {fits} would fit")
    fits = largest_that_fits(list(_halves(requested)))
    if not fits:
        return failure(
            "memory",
            f"{message}; not even one sample fits",
            "use fewer ranks, a smaller data.image_size or model.features, model.checkpoint_activations=true",
        )
    return failure(
        "memory",
        f"{message}: the system would kill the training",
        f"set train.micro_batch={fits} ({-(-share // fits)} times a step: train.global_batch={cfg.train.global_batch} "
        "stays), or use fewer ranks",
    )


def gpu_memory(cfg: Config, share: int, measurements: Sequence[Measurement]) -> Finding:
    """The largest size that was measured to fit, and the one that the config asks for."""
    requested = min(cfg.train.micro_batch or share, share)
    fitting = [measurement for measurement in measurements if measurement.fits]
    largest, used = fitting[0], fitting[-1]
    message = f"{used.peak_bytes / GIB:.1f} GiB with {used.size} samples at once (measured)"
    if largest.size > used.size:
        return ok("memory", f"{message}; up to {largest.size} fit, in {largest.peak_bytes / GIB:.1f} GiB")
    if largest.size >= requested:
        return ok("memory", message)
    times = f"{-(-share // largest.size)} times a step keep the global batch of {cfg.train.global_batch}"
    remedy = f"set train.micro_batch={largest.size} ({times})"
    if cfg.train.on_oom == "halve":
        return warning("memory", f"{message}; {requested} do not fit: the training will halve", remedy)
    return failure("memory", f"{message}; {requested} do not fit", remedy)


def time_and_cost(cfg: Config, ranks: int, work: Work, measured: Measurement, price: float | None) -> Finding:
    """Hours of all epochs, training and scoring; without the start, and without waiting for a slow disk."""
    steps = max(1, work.train_slices // cfg.train.global_batch) * cfg.train.epochs
    share = cfg.train.global_batch // ranks
    step_s = measured.step_s / measured.size * share
    if (cfg.train.micro_batch or share) < share:
        step_s *= 4 / 3  # with accumulation, a forward pass beforehand gathers the sums of the loss
    scorings = -(-cfg.train.epochs // cfg.evaluate.every_epochs)
    scoring_s = scorings * work.validation_slices * measured.score_s / measured.size / ranks
    total_s = steps * step_s + scoring_s
    images_per_s = cfg.train.global_batch / step_s
    message = (
        f"about {duration(total_s)} for {cfg.train.epochs} epochs: {steps} steps of {step_s:.2f} s "
        f"({images_per_s:.1f} images/s), {duration(scoring_s)} of it scoring"
    )
    if ranks > 1 and step_s < SHORT_STEP_S:
        message += "; what ranks tell each other comes on top, and counts in steps so short"
    if not work.exact:
        message += "; slices estimated from three patients"
    if price is not None:
        message += f"; costs about {price * total_s / 3600:.2f} at {price:g} an hour"
    if cfg.stop.deadline is not None:
        message += f"; it stops at stop.deadline={cfg.stop.deadline} and goes on when it is started again"
    return ok("forecast", message)


def checkpoint_bytes(cfg: CheckpointConfig, parameters: int) -> int:
    """Bytes of a run directory: the checkpoints that are kept, the best one, one that is being written, the rest."""
    return (cfg.keep + 2) * COPIES * 4 * parameters + 100 * 2**20


def available_bytes() -> float:
    """Memory that new processes on this machine, or in this container, can have."""
    free_bytes = float(psutil.virtual_memory().available)
    for folder, limit, used, cache in CGROUPS:
        try:
            limit_bytes, used_bytes = (int(Path(folder, name).read_text(encoding="utf-8")) for name in (limit, used))
            stat = dict(line.split() for line in Path(folder, "memory.stat").read_text(encoding="utf-8").splitlines())
            free_bytes = min(free_bytes, limit_bytes - used_bytes + int(stat.get(cache, 0)))
        except (OSError, ValueError):  # the other version of cgroups, or no limit ("max")
            continue
    return free_bytes


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size = (size + 1) // 2
        yield size
