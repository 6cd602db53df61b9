"""DeepSpeed's configuration, made from ours."""

import importlib
import logging
import os
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from segtrain.config import Config, flatten, merge, nearest
from segtrain.errors import ConfigError, gist

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
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": -(-share // micro_batch),
        "gradient_clipping": cfg.optim.clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # SGD
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled for minutes; torch's does the same
        "steps_per_print": 2**31 - 1,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice a step, and nobody reads it
    }
    dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(cfg.precision)
    if dtype:
        settings["torch_autocast"] = {"enabled": True, "dtype": dtype}
    merge(settings, cfg.deepspeed.extra, "deepspeed.extra")
    return settings


def load_deepspeed(device_type: str) -> Any:
    """The package `deepspeed`, set to this device and to log warnings only. Takes seconds the first time."""
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


@contextmanager
def local_rank_of(device: torch.device) -> Iterator[None]:
    """A context in which LOCAL_RANK is the number of this GPU; on a CPU, and where it is that, nothing is written.

    DeepSpeed takes it for that, at its start and, with ZeRO 3, in steps too. Under srun --gpus-per-task=1 it is not:
    each rank's GPU is its first.
    """
    before, own = os.environ.get("LOCAL_RANK"), str(device.index or 0)
    if device.type != "cuda" or before == own:
        yield
        return
    os.environ["LOCAL_RANK"] = own
    try:
        yield
    finally:
        if before is not None:
            os.environ["LOCAL_RANK"] = before


def check(settings: Mapping[str, Any], extra: Mapping[str, Any], device_type: str) -> None:
    """Raise ConfigError when DeepSpeed refuses `deepspeed.extra`, or does not read a key of it."""
    deepspeed = load_deepspeed(device_type)
    config = importlib.import_module("deepspeed.runtime.config")
    read = _Read(settings)
    try:
        config.DeepSpeedConfig(read)
    except (config.DeepSpeedConfigError, ValueError, TypeError, AttributeError, KeyError, AssertionError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in flatten(extra))
        reason = f"{type(error).__name__}: {gist(error)}"
        raise ConfigError(f"deepspeed.extra.{given}: DeepSpeed refuses it ({reason}); change or drop it") from error
    for key in extra:
        if key not in read.keys_read:
            near = nearest(key, sorted(read.keys_read))
            hint = f"; did you mean {near}?" if near else ""
            raise ConfigError(
                f"deepspeed.extra.{key}: unknown to DeepSpeed {deepspeed.__version__}{hint}; change or drop it"
            )
    half = settings.get("torch_autocast", {}).get("dtype") == "float16"
    if half and not settings["zero_optimization"].get("compute_grad_norm", True):
        raise ConfigError(
            "deepspeed.extra.zero_optimization.compute_grad_norm=False: with precision=fp16 only this norm tells which "
            "gradients overflowed; drop it, or use precision=bf16"
        )


class _Read(dict[str, Any]):
    """A dict that records which keys are read: DeepSpeed ignores unknown keys and has no list of those it knows."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        super().__init__(items)
        self.keys_read: set[str] = set()

    def __copy__(self) -> "_Read":
        return self

    def __contains__(self, key: object) -> bool:
        self.keys_read.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_read.add(key)
        return super().get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return KeysView(self)  # whose `in` is ours
