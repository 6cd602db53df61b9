"""DeepSpeed's configuration, made from ours."""

import difflib
import importlib
import logging
import os
from collections.abc import Iterable, KeysView, Mapping
from typing import Any

from pydantic import ValidationError

from segtrain.config import Config
from segtrain.errors import ConfigError

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


def load(device_type: str) -> Any:
    """The package `deepspeed`, told what it runs on, and to be quiet. Takes seconds at the first time."""
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def check(settings: Mapping[str, Any], extra: Mapping[str, Any], device_type: str) -> None:
    """Raise ConfigError when DeepSpeed refuses what `deepspeed.extra` adds, or never asks for a key of it."""
    deepspeed = load(device_type)
    asked = _Asked(settings)
    config = importlib.import_module("deepspeed.runtime.config")
    try:
        config.DeepSpeedConfig(asked)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        section = next((f"{key}." for key, value in extra.items() if isinstance(value, Mapping) and path in value), "")
        fields = importlib.import_module("deepspeed.runtime.zero.config").DeepSpeedZeroConfig.model_fields
        hint = _near(path, fields) if section == "zero_optimization." else ""
        raise ConfigError(
            f"deepspeed.extra.{section}{path}={first['input']!r}: DeepSpeed says: {first['msg']}{hint}; "
            "change or drop it"
        ) from error
    except (
        config.DeepSpeedConfigError, ValueError, TypeError, AttributeError, KeyError, AssertionError,
    ) as error:  # fmt: skip
        words = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"deepspeed.extra={dict(extra)!r}: DeepSpeed cannot read it ({type(error).__name__}: {words}); change it"
        ) from error
    for key in extra:
        if key not in asked.keys_asked_for:
            hint = _near(key, asked.keys_asked_for)
            raise ConfigError(
                f"deepspeed.extra.{key}: DeepSpeed {deepspeed.__version__} knows no such key{hint}; change or drop it"
            )


def _near(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


class _Asked(dict[str, Any]):
    """A dict that remembers which keys were asked for: DeepSpeed has no list of those that it knows."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        super().__init__(items)
        self.keys_asked_for: set[str] = set()

    def __copy__(self) -> "_Asked":
        return self

    def __contains__(self, key: object) -> bool:
        self.keys_asked_for.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked_for.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked_for.add(key)
        return super().get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return KeysView(self)  # whose `in` is ours
