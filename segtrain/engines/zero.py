"""DeepSpeed's configuration, made from ours."""

from collections.abc import Mapping
from typing import Any

from segtrain.config import Config

# Numbers in a message, and whole weights that ZeRO 3 keeps at a time. DeepSpeed's own (5e8 and 1e9) are for networks of
# billions: with them its buffers take 2 GB whatever the network, and ZeRO 3 never gives a weight back.
BUCKET, LIVE = 2**23, 2**24


def settings_of(cfg: Config, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration, with `deepspeed.extra` over it."""
    share = cfg.train.global_batch // world_size
    micro_batch = min(cfg.train.micro_batch or share, share)
    zero: dict[str, Any] = {
        "stage": cfg.deepspeed.zero,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "stage3_prefetch_bucket_size": BUCKET,
        "stage3_max_live_parameters": LIVE,
        "stage3_max_reuse_distance": LIVE,
    }
    if cfg.deepspeed.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": -(-share // micro_batch),
        "gradient_clipping": cfg.optim.clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # SGD
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled for minutes; torch's does the same
        "steps_per_print": 2**31 - 1,
    }
    dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(cfg.precision)
    if dtype:
        made["torch_autocast"] = {"enabled": True, "dtype": dtype}
    return _over(made, cfg.deepspeed.extra)


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged
