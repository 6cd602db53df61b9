"""The keys of DeepSpeed's JSON that are made from ours, which `deepspeed.extra` may not replace. Imports no torch."""

from collections.abc import Iterator, Mapping
from typing import Any

from segtrain.config.tree import flatten

# Keys of DeepSpeed's JSON that are made from ours, and from which of ours.
OWNED = {
    "train_batch_size": "train.global_batch",
    "elasticity": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.micro_batch",
    "managed_gradient_accumulation": "train.micro_batch",
    "gradient_clipping": "optim.clip_norm",
    "optimizer": "optim.name",
    "zero_allow_untested_optimizer": "optim.name",
    "scheduler": "optim.schedule",
    "fp16": "precision",
    "bf16": "precision",
    "bfloat16": "precision",
    "amp": "precision",
    "torch_autocast": "precision",
    "activation_checkpointing": "model.checkpoint_activations",
    "compile": "model.compile (with engine=ddp)",
    "zero_optimization.stage": "deepspeed.zero",
    "zero_optimization.cpu_offload": "deepspeed.offload",
    "zero_optimization.offload_optimizer.device": "deepspeed.offload",
    "zero_force_ds_cpu_optimizer": "deepspeed.offload",
}


def extra_problems(extra: Mapping[str, Any]) -> Iterator[str]:
    """Keys of `deepspeed.extra` that would replace what is made from other keys."""
    for key, value in flatten(extra):
        for owned, ours in OWNED.items():
            if f"{key}.".startswith(f"{owned}."):
                yield f"deepspeed.extra.{key}={value!r}: this is made from {ours}; leave it out and set {ours}"
            elif owned.startswith(f"{key}.") and not isinstance(value, Mapping):
                yield f"deepspeed.extra.{key}={value!r}: a mapping of DeepSpeed's keys belongs there"
