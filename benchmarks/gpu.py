"""Step and whole training on a CUDA GPU: fp32, tf32, bf16, fp16, eager and compiled. Not yet run on a GPU.

python -m benchmarks.gpu --lgg /data/kaggle_3m --json gpu.json     # configs/lgg.yaml, 20 epochs, for each precision
python -m benchmarks.gpu --cpu                                     # tries the script at a tiny size
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import machine
from benchmarks.step import BATCH, engine_step, step_flop
from segtrain.config import Precision
from segtrain.dist import World
from segtrain.loading import builtin_config

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
PEAK_TYPE = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def seconds_each(work: Any, repeat: int, device: torch.device) -> float:
    """Seconds of one call of many that are queued without waiting between them."""
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / repeat


def step(precision: Precision, compiled: bool, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Images/s of one precision, against the matrix-product rate of its type in the same process."""
    size, features, repeat = (32, 4, 2) if tiny else (256, 32, 30)
    work = engine_step(World(device=device), size, features, precision, compiled=compiled)
    started = time.perf_counter()
    seconds_each(work, 3, device)
    warmup_s = time.perf_counter() - started
    step_s = statistics.median(seconds_each(work, repeat, device) for _ in range(5))
    a = torch.randn(256 if tiny else 8192, 256 if tiny else 8192, device=device, dtype=PEAK_TYPE[precision])
    seconds_each(lambda: a @ a, 3, device)
    peak = 2 * float(len(a)) ** 3 / seconds_each(lambda: a @ a, 10, device) / 1e12
    reached = step_flop(size, features) * BATCH / step_s / 1e12
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {"precision": precision, "compiled": compiled, "images_per_s": BATCH / step_s, "tflops": reached,
            "matmul_tflops": peak, "of_peak": reached / peak, "warmup_s": warmup_s, "memory_gib": memory}  # fmt: skip


def whole(precision: Precision, compiled: bool, overrides: list[str], config: str) -> dict[str, Any]:
    """A whole training by the command: wall time to the first step and to the end, mean DSC, images/s, idle GPU."""
    with tempfile.TemporaryDirectory() as runs:
        argv = [sys.executable, "-m", "segtrain.train", "--config", str(builtin_config(config)), f"runs_dir={runs}",
                "name=gpu", f"precision={precision}", f"model.compile={str(compiled).lower()}", *overrides]  # fmt: skip
        busy: list[float] = []
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(busy, over))
        watcher.start()
        started = time.time()
        try:
            subprocess.run(argv, check=True)
        finally:
            over.set()
            watcher.join()
        wall_s = time.time() - started
        lines = (Path(runs) / "gpu" / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
    steps = [e for e in events if e["event"] == "train"]
    scores = [e["val_dsc"] for e in events if e["event"] == "evaluation"]
    return {"precision": precision, "compiled": compiled, "wall_s": wall_s,
            "first_record_s": steps[0]["time"] - started, "best_dsc": max(scores), "last_dsc": scores[-1],
            "images_per_s": statistics.median(e["images_per_s"] for e in steps),
            "gpu_idle": 1 - statistics.mean(busy) / 100 if busy else None}  # fmt: skip


def _watch(busy: list[float], over: threading.Event) -> None:
    """Per cent of the last second in which the GPU computed, once a second, where nvidia-smi tells."""
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
    parser.add_argument("--cpu", action="store_true", help="try the script on the CPU, tiny: the figures mean nothing")
    parser.add_argument("--json", type=Path, help="write the results there")
    arguments = parser.parse_args()
    if not arguments.cpu and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --cpu tries the script at a tiny size")
    device = torch.device("cpu" if arguments.cpu else "cuda")
    ways = [(p, c) for p in PRECISIONS for c in (False, True)]
    if arguments.cpu:
        ways = [("fp32", False), ("bf16", False)]
    found: dict[str, Any] = {"machine": machine(), "device": str(device), "step": [], "whole": []}
    for precision, compiled in ways:
        found["step"].append(step(precision, compiled, device, arguments.cpu))
        print(found["step"][-1], flush=True)
    tiny = ["train.epochs=1", "data.phantom={patients: 8, size_px: 64}", "data.image_size=32", "device=cpu",
            "data.validation_patients=2", "model.features=4"]  # fmt: skip
    real = [f"data.root={arguments.lgg}", "train.epochs=20"]
    for precision, compiled in ways if arguments.cpu or arguments.lgg else []:
        found["whole"].append(
            whole(precision, compiled, *((tiny, "phantom.yaml") if arguments.cpu else (real, "lgg.yaml")))
        )
        print(found["whole"][-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
