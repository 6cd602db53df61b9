"""The kind of part that an object of the user's own is: by its class, else by its parameters. Imports no torch."""

import inspect
from collections.abc import Collection
from typing import Any, Literal

Kind = Literal["loss", "model", "augment", "optim", "schedule", "source"]
KEY_OF: dict[Kind, str] = {
    "loss": "loss",
    "model": "model.name",
    "augment": "data.augment",
    "optim": "optim.name",
    "schedule": "optim.schedule",
    "source": "data.source",
}
# Parameters by which a kind is known, among those without a default or the first two.
CHANNELS = {"in_channels", "input_channels", "in_ch", "in_chans", "img_ch", "n_channels", "n_classes", "num_classes"}
CHANNELS |= {"out_channels", "output_ch", "out_ch", "classes", "channel", "encoder_name"}
COMPARED = {"pred", "preds", "prediction", "predict", "y_pred", "output", "outputs", "logit", "logits", "probas"}
COMPARED |= {"probs", "input", "inputs", "y_true", "target", "targets", "label", "labels", "true", "x", "y"}
IMAGES = {"image", "img", "images", "sample", "data", "volume"}
STEPS = {"step", "epoch", "progress", "total", "total_steps", "optimizer", "t", "it", "iteration"}
ROOTS = {"root", "data_root", "folder"}
PARAMETERS = {"params", "parameters", "param_groups", "network", "model", "net"}
BY_FIRST: dict[Kind, set[str]] = {"augment": IMAGES, "schedule": STEPS, "optim": PARAMETERS, "source": ROOTS}
# Attributes by which the transforms of libraries are known.
TRANSFORM = ("set_random_seed", "set_random_state", "get_parameters", "data_keys", "apply_transform")


def kind_of(part: Any) -> Kind | None:
    """The kind of a function, class or object; None where it cannot be told."""
    if all(callable(getattr(part, method, None)) for method in ("patients", "read")):
        return "source"
    bases = part.__mro__ if isinstance(part, type) else type(part).__mro__
    names = {f"{base.__module__}.{base.__qualname__}" for base in bases}
    if "torch.optim.optimizer.Optimizer" in names:
        return "optim"
    if any(name.startswith("torch.optim.lr_scheduler.") for name in names):
        return "schedule"
    if any(hasattr(part, attribute) for attribute in TRANSFORM) or any("torchvision.transforms" in n for n in names):
        return "augment"
    if "torch.nn.modules.module.Module" in names:
        forward = _first_names(part.forward, without_self=isinstance(part, type))
        return "loss" if len(forward) > 1 and not _has(CHANNELS, _all_names(part)) else "model"
    first = _first_names(part, without_self=False)
    if len(first) > 1 and first[0].lower() in COMPARED:
        return "loss"
    if _has(CHANNELS, _all_names(part)):
        return "model"
    for kind, known in BY_FIRST.items():
        if first and first[0].lower() in known:
            return kind
    return "loss" if len(first) > 1 else None


def _has(known: Collection[str], names: Collection[str]) -> bool:
    return any(name.lower() in known for name in names)


def _all_names(part: Any) -> list[str]:
    try:
        return list(inspect.signature(part).parameters)
    except (TypeError, ValueError):
        return []


def _first_names(function: Any, without_self: bool) -> list[str]:
    """Parameters that an argument by position can be given to, those without a default or else the first two."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[without_self:]
    except (TypeError, ValueError):
        return []
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in by_position if p.default is p.empty]
    return required or [p.name for p in by_position[:2]]
