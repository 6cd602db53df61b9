"""A loss of the user's own as a function of prediction and mask, whatever it is written as.

A class is built with the config's options; a function that needs no argument is a factory, which is called with them;
any other function gets them with each call.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.config import Reference
from segtrain.config.importing import load
from segtrain.errors import ConfigError, gist
from segtrain.losses.alone import alone
from segtrain.losses.convention import Convention

_TRUE = {
    "true", "target", "targets", "gt", "gts", "label", "labels", "mask", "masks", "truth", "ground_truth",
    "groundtruth", "y_true", "y", "true_mask", "true_masks", "gt_mask", "targ", "tgt", "reference",
}  # fmt: skip
_PREDICTED = {
    "pred", "preds", "prediction", "predictions", "predicted", "y_pred", "y_hat", "yhat", "input", "inputs", "inp",
    "logit", "logits", "prob", "probs", "probability", "probabilities", "output", "outputs", "out", "net_output", "x",
    "score", "scores",
}  # fmt: skip


class Unfit(Exception):
    """The loss cannot be called so, or gives something that is no loss."""


@dataclass(frozen=True)
class OwnFunction:
    """`call(first, second)`; `names` are those of its two arguments, where they are known.

    `owner` is the object whose state a call might change; `known`: options that it has by name, None where unknown.
    """

    reference: Reference
    options: Mapping[str, Any]
    call: Callable[[Tensor, Tensor], Any]
    owner: object
    names: tuple[str, ...]
    known: frozenset[str] | None

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.reference.short}({options})"

    @property
    def orders(self) -> tuple[bool, ...]:
        """Whether the mask may come first: what the arguments' names say, else the prediction first or the mask."""
        first, second = (name.lower() for name in self.names) if self.names else ("", "")
        prediction_first = first in _PREDICTED or second in _TRUE
        true_first = first in _TRUE or second in _PREDICTED
        return (False, True) if prediction_first == true_first else (true_first,)

    def value(self, convention: Convention, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss, a scalar of the logits' type, differentiable where they are. Raises Unfit: no tensor.

        Called in full precision, on copies, and as on a single rank.
        """
        if isinstance(self.owner, nn.Module):
            self.owner.to(logits.device)
        logits = logits.clone(memory_format=torch.contiguous_format)
        mask = mask.detach().to(logits.dtype, copy=True)
        with torch.autocast(logits.device.type, enabled=False), alone():
            value = self.call(*convention.arguments(logits, mask))
        if not isinstance(value, Tensor):
            what = "nothing" if value is None else f"a {type(value).__name__}"
            raise Unfit(f"gives {what} and not a tensor; return the loss alone, as a tensor")
        if not value.numel() or value.is_complex():
            raise Unfit(f"gives a tensor of {list(value.shape)}, {value.dtype}; return one number, or a map of them")
        return value.to(logits.dtype).mean()

    def value_and_gradient(self, convention: Convention, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient at the logits. Raises Unfit: there is none."""
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            value = self.value(convention, logits, mask)
            if not value.requires_grad:
                raise Unfit("has no gradient: the prediction is rounded, compared, or leaves torch on the way")
            with alone():
                (gradient,) = torch.autograd.grad(value, logits, materialize_grads=True, allow_unused=True)
        return value.detach(), gradient

    def without(self, option: str) -> "OwnFunction":
        """The same loss without one of its options."""
        return own_function(self.reference, {key: value for key, value in self.options.items() if key != option})


def own_function(reference: Reference, options: Mapping[str, Any]) -> OwnFunction:
    """The loss that a reference names. Raises ConfigError: no loss for PyTorch, or not with these options."""
    thing = load(reference)
    _refuse_foreign(reference, thing)
    parameters = _parameters(thing)
    known = None if parameters is None else frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
    if isinstance(thing, type):
        thing = _called(reference, thing, options)
    elif isinstance(thing, nn.Module) or not callable(thing):
        if options or not callable(thing):
            kind = type(thing).__name__
            raise ConfigError(
                f"{reference}: is a ready-made {kind}, which takes no options; name a class or a function"
                if callable(thing)
                else f"{reference}: is a {kind}, which cannot be called; name a class or a function"
            )
    elif _needed(thing, options) == []:
        thing = _called(reference, thing, options)
    else:
        call = partial(thing, **options) if options else thing
        return OwnFunction(reference, options, call, thing, _names(reference, call, options), known)
    if not callable(thing):
        raise ConfigError(f"{reference}: gives a {type(thing).__name__}, which cannot be called; return a loss")
    if isinstance(thing, nn.Module):
        _refuse_weights(reference, thing)
    return OwnFunction(reference, options, thing, thing, _names(reference, thing, {}), known)


def _called(reference: Reference, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return make(**options)
    except Exception as error:  # the user's code may raise anything
        missing = [name for name in _needed(make, options) or [] if name not in options]
        if isinstance(error, TypeError) and missing:
            raise ConfigError(
                f"{reference}: needs {', '.join(missing)}; write {{part: {reference}, {missing[0]}: VALUE}}"
            ) from error
        raise ConfigError(
            f"{reference}: cannot be made with {dict(options)} ({type(error).__name__}: {gist(error)}); change its "
            "options"
        ) from error


def _parameters(call: Any) -> list[inspect.Parameter] | None:
    """Those that are given by position; None: not known."""
    if isinstance(call, nn.Module) and not inspect.isfunction(call):
        call = call.forward
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    return list(parameters)


def _needed(call: Any, options: Mapping[str, Any]) -> list[str] | None:
    """Names of the arguments that a call has to give besides the options; None: not known."""
    parameters = _parameters(call)
    if parameters is None or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return [p.name for p in needed if p.name not in options]


def _names(reference: Reference, call: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of prediction and mask. Raises ConfigError where it needs more than these, or takes fewer."""
    parameters = _parameters(call)
    needed = _needed(call, options)
    if parameters is None or needed is None:
        return ()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if taken := [name for name in positional[:2] if name in options]:
        raise ConfigError(f"{reference}: {taken[0]} is the prediction or the mask, and no option; drop it")
    if len(needed) > 2:
        raise ConfigError(
            f"{reference}: needs {', '.join(needed[2:])} besides prediction and mask, which training does not have; "
            "give it as an option if it is a setting, or compute it in the loss"
        )
    if len(positional) < 2:
        raise ConfigError(
            f"{reference}: takes {', '.join(positional) or 'no argument'}; a loss takes a prediction and a mask"
        )
    return tuple(positional[:2])


def _refuse_foreign(reference: Reference, thing: Any) -> None:
    kinds = thing.__mro__ if isinstance(thing, type) else type(thing).__mro__
    for kind in kinds:
        if kind.__module__.partition(".")[0] in ("keras", "tensorflow", "tf_keras"):
            raise ConfigError(f"{reference}: is a loss for Keras; name one that is written for PyTorch")


def _refuse_weights(reference: Reference, module: nn.Module) -> None:
    if trained := [name for name, parameter in module.named_parameters() if parameter.requires_grad]:
        raise ConfigError(
            f"{reference}: has weights of its own ({', '.join(trained[:3])}), which training does not change; make "
            "them buffers or options"
        )
