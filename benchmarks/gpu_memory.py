"""The step `memory` of `benchmarks.gpu`: out of memory on purpose."""

from typing import Any

import torch

from benchmarks.gpu_engine import LR, Results, batch_of, engine_of
from benchmarks.gpu_shot import Shot
from segtrain.config import Config
from segtrain.runtime.out_of_memory import OutOfMemory, is_out_of_memory


def memory(shot: Shot) -> Results:
    """Out of memory on purpose: the words of the error, whether they are known, and the micro-batch that then fits."""
    if shot.cpu:
        return
    cfg = shot.config(precision="bf16")
    for left_gib in (1.5, 0.7, 0.3):
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        block = torch.empty(int(free - left_gib * 2**30), dtype=torch.uint8, device=shot.device)
        yield f"{left_gib} GiB left", _what_fits(shot, cfg)
        del block


def _what_fits(shot: Shot, cfg: Config) -> dict[str, Any]:
    words: list[str] = []
    try:
        engine = engine_of(cfg, shot.device)
        image, mask = batch_of(cfg, "none", shot.device)
        while True:
            try:
                engine.step(image, mask, LR)
                shot.wait()
                return {"micro_batch": engine.micro_batch, "words": words}
            except OutOfMemory as error:
                words.append(str(error)[:120])
                if engine.micro_batch == 1:
                    return {"micro_batch": None, "words": words}
                engine.micro_batch = (engine.micro_batch + 1) // 2
    except RuntimeError as error:
        return {"error": str(error)[:300], "known": is_out_of_memory(error), "words": words}
