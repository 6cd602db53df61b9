"""Step and whole training on a CUDA GPU, in fp32, tf32, bf16 and fp16, eager and compiled. Not yet run on a GPU.

python -m benchmarks.gpu --lgg /data/kaggle_3m --json gpu.json     # configs/lgg.yaml, 20 epochs, for each precision
python -m benchmarks.gpu --cpu                                     # tests the script at a tiny size

Data is prepared before any clock starts. The start is measured by a separate run that records its first step.
"""

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import machine
from benchmarks.step import BATCH, engine_step, step_flop
from segtrain.config import Precision, builtin_config, load_config
from segtrain.data.prepare import ensure_store
from segtrain.runtime.world import World

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
PEAK_TYPE = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


TINY = ["train.epochs=1", "data.phantom={patients: 8, size_px: 64}", "data.image_size=32", "device=cpu",
        "data.validation_patients=2", "model.features=4"]  # fmt: skip
Way = tuple[Precision, bool]  # and whether it is compiled


def ways(cpu: bool) -> list[Way]:
    """What is measured; on a CPU, a subset that runs every line of the script."""
    if cpu:
        return [("fp32", False), ("bf16", False), ("fp32", True)]
    return [(precision, compiled) for precision in PRECISIONS for compiled in (False, True)]


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """A context that gives a function returning the peak of GiB allocated since it was entered; None on a CPU.

    Memory of the previous way, including compiled graphs with their buffers, is released first.
    """
    torch._dynamo.reset()
    gc.collect()
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) / 2**30 if gpu else None


def seconds_each(work: Any, repeat: int, device: torch.device) -> float:
    """Seconds per call, over many calls that are queued without waiting between them."""
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / repeat


def step(precision: Precision, compiled: bool, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Images/s of one precision, against the matrix-product rate of its type in the same process."""
    size, features, repeat = (32, 4, 2) if tiny else (256, 32, 30)
    with peak_memory(device) as peak_gib:
        work = engine_step(World(device=device), size, features, precision, compiled=compiled)
        started = time.perf_counter()
        seconds_each(work, 3, device)
        warmup_s = time.perf_counter() - started
        step_s = statistics.median(seconds_each(work, repeat, device) for _ in range(5))
        memory = peak_gib()
    a = torch.randn(256 if tiny else 8192, 256 if tiny else 8192, device=device, dtype=PEAK_TYPE[precision])
    seconds_each(lambda: a @ a, 3, device)
    peak = 2 * float(len(a)) ** 3 / seconds_each(lambda: a @ a, 10, device) / 1e12
    reached = step_flop(size, features) * BATCH / step_s / 1e12
    return {"precision": precision, "compiled": compiled, "images_per_s": BATCH / step_s, "tflops": reached,
            "matmul_tflops": peak, "of_peak": reached / peak, "warmup_s": warmup_s, "memory_gib": memory}  # fmt: skip


def trained(way: Way, config: str, overrides: list[str]) -> tuple[float, float, list[dict[str, Any]]]:
    """A training by the command, on prepared data: its start time, its wall time, its events."""
    path, (precision, compiled) = builtin_config(config), way
    ensure_store(load_config(path, overrides).data)
    with tempfile.TemporaryDirectory() as runs:
        argv = [sys.executable, "-m", "segtrain.train", "--config", str(path), f"runs_dir={runs}", "name=gpu",
                f"precision={precision}", f"model.compile={str(compiled).lower()}", *overrides]  # fmt: skip
        started = time.time()
        subprocess.run(argv, check=True)
        wall_s = time.time() - started
        lines = (Path(runs) / "gpu" / "metrics.jsonl").read_text().splitlines()
    return started, wall_s, [json.loads(line) for line in lines]


def start(way: Way, config: str, overrides: list[str]) -> dict[str, Any]:
    """Wall time from the command to the end of its first step."""
    began, _, events = trained(way, config, [*overrides, "train.epochs=1", "log_every_steps=1"])
    first = next(e for e in events if e["event"] == "train")
    assert first["step"] == 1, first
    return {"precision": way[0], "compiled": way[1], "first_step_s": first["time"] - began}


def whole(way: Way, config: str, overrides: list[str]) -> dict[str, Any]:
    """A whole training: wall time, mean DSC, images/s, idle GPU."""
    busy: list[float] = []
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(busy, over))
    watcher.start()
    try:
        _, wall_s, events = trained(way, config, overrides)
    finally:
        over.set()
        watcher.join()
    steps = [e for e in events if e["event"] == "train"]
    scores = [e["val_dsc"] for e in events if e["event"] == "evaluation"]
    return {"precision": way[0], "compiled": way[1], "wall_s": wall_s, "best_dsc": max(scores), "last_dsc": scores[-1],
            "images_per_s": statistics.median(e["images_per_s"] for e in steps),
            "gpu_idle": 1 - statistics.mean(busy) / 100 if busy else None}  # fmt: skip


def _watch(busy: list[float], over: threading.Event) -> None:
    """Once a second, the GPU's utilisation in per cent during the last second, if there is nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    while not over.wait(1):
        busy.append(float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lgg", type=Path, help="folder of real patients (kaggle_3m), for the whole training")
    parser.add_argument("--cpu", action="store_true", help="test the script on the CPU, tiny: the figures mean nothing")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    if not arguments.cpu and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --cpu tests the script at a tiny size")
    device = torch.device("cpu" if arguments.cpu else "cuda")
    results: dict[str, Any] = {"machine": machine(), "device": str(device), "step": [], "start": [], "whole": []}

    def take(kind: str, figures: dict[str, Any]) -> None:
        results[kind].append(figures)
        print(kind, figures, flush=True)

    for precision, compiled in ways(arguments.cpu):
        take("step", step(precision, compiled, device, arguments.cpu))
    with tempfile.TemporaryDirectory() as folder:
        config, overrides = "lgg.yaml", [f"data.root={arguments.lgg}", "train.epochs=20"]
        if arguments.cpu:
            config, overrides = "phantom.yaml", [*TINY, f"data.store={folder}"]
        for way in ways(arguments.cpu) if arguments.cpu or arguments.lgg else []:
            take("start", start(way, config, overrides))
            take("whole", whole(way, config, overrides))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
