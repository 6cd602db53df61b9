"""The trials of a loss of the user's own: the laws that apply to it, and the ways in which losses go wrong in silence.

All of them for `segtrain check`; before a training those that take no time and may refuse the part.

Legend: b batch, h height, w width.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.config import Reference
from segtrain.config.trial import Check
from segtrain.errors import ConfigError
from segtrain.losses import region
from segtrain.losses.alone import alone
from segtrain.losses.own import OwnLoss, find_own_loss, four_samples, undisturbed
from segtrain.losses.probe import masks, random_logits
from segtrain.losses.region import Region

RANKS = (1, 2, 4)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SLOW = 10  # times the time of our dice: told as a warning
SLICES, SIZE = 16, 256  # of the batch that speed and memory are measured with


def tried_loss(reference: Reference, options: Mapping[str, Any]) -> OwnLoss:
    """The loss that a reference names. Raises ConfigError where it is none, or a law cannot hold with it."""
    loss = find_own_loss(reference, options)
    for check in _short(loss):
        if check.verdict == "fails":
            raise ConfigError(f"{loss.function}: {check.message}")
    return loss


def check_loss(reference: Reference, options: Mapping[str, Any]) -> tuple[str, list[Check]]:
    """How the loss is called, and all trials of it; the first says why where it cannot be called."""
    try:
        loss = find_own_loss(reference, options)
    except ConfigError as error:
        return str(reference), [Check("is a loss", "fails", str(error))]
    return loss.description, [Check("is a loss", "holds"), *_short(loss), _finite(loss), _derivative(loss), _cost(loss)]


def _short(loss: OwnLoss) -> list[Check]:
    trials = (_options, _value, _state, _arguments, _ranks, _soft_masks)
    with undisturbed():
        return [trial(loss) for trial in trials]


def _options(loss: OwnLoss) -> Check:
    """Options that **kwargs swallows."""
    logits, mask = random_logits(3), masks()
    for option in loss.function.options:
        if loss.function.known is None or option in loss.function.known:
            continue
        try:
            without = loss.function.without(option).value(loss.convention, logits, mask).item()
        except Exception:  # noqa: BLE001  the user's code may raise anything; it then needs the option
            continue
        if without == _of(loss, logits, mask):
            return Check(
                "each option changes it", "fails", f"its option {option} changes nothing; drop it, or correct its name"
            )
    return Check("each option changes it", "holds")


def _value(loss: OwnLoss) -> Check:
    values = loss.probe.values
    truth = round(loss.probe.best, 6)
    shown = f"{values[-8.0]:.3g} for the inverted mask, {values[0.0]:.3g} undecided, {truth:.3g} for the truth"
    if loss.remarks:
        return Check("falls to the truth, with a gradient", "warning", f"{shown}; it {'; it '.join(loss.remarks)}")
    return Check("falls to the truth, with a gradient", "holds", shown)


def _state(loss: OwnLoss) -> Check:
    """The same value for the same, with another call in between, and nothing counted."""
    name = "keeps no state, draws no numbers"
    first = _of(loss, random_logits(3), masks())
    before = _state_of(loss.function.owner)
    _of(loss, random_logits(3, seed=1), 1 - masks())
    again = _of(loss, random_logits(3), masks())
    if first != again:
        return Check(
            name, "fails", f"gives {first:.6g} and then {again:.6g} for the same: it keeps something, or draws numbers"
        )
    if changed := [key for key, value in _state_of(loss.function.owner).items() if before.get(key) != value]:
        return Check(
            name,
            "fails",
            f"changes its {changed[0]} with each call, which no checkpoint holds; let the loss's weight move instead",
        )
    return Check(name, "holds")


def _state_of(owner: object) -> dict[str, Any]:
    """Numbers, texts and tensors (their sums) that the object and the modules in it hold."""
    modules = dict(owner.named_modules()) if isinstance(owner, nn.Module) else {"": owner}
    state: dict[str, Any] = {}
    for prefix, module in modules.items():
        held = dict(getattr(module, "__dict__", {}))
        held |= dict(module.named_buffers(recurse=False)) if isinstance(module, nn.Module) else {}
        for key, value in held.items():
            if isinstance(value, (int, float, str)):
                state[f"{prefix}.{key}".lstrip(".")] = value
            elif isinstance(value, Tensor):
                state[f"{prefix}.{key}".lstrip(".")] = value.double().sum().item()
    return state


def _arguments(loss: OwnLoss) -> Check:
    logits, mask = random_logits(3), masks()
    pair = loss.convention.arguments(logits, mask)
    copies = [each.clone() for each in pair]
    with torch.no_grad(), alone():
        loss.function.call(*pair)
    if all(torch.equal(each, copy) for each, copy in zip(pair, copies, strict=True)):
        return Check("leaves its arguments alone", "holds")
    return Check("leaves its arguments alone", "warning", "writes into its arguments; it is given copies")


def _ranks(loss: OwnLoss) -> Check:
    """The loss and its gradient from the parts of 1, 2 and 4 ranks, or of as many micro-batches."""
    name = "the same on 1, 2 and 4 ranks and under accumulation"
    logits, mask = four_samples()
    if loss.couples:
        return Check(name, "holds", "couples samples: every rank gets the logits of the global batch")
    whole, gradient = _in_parts(loss, logits, mask, 1)
    furthest = 0.0
    for ranks in RANKS[1:]:
        value, other = _in_parts(loss, logits, mask, ranks)
        furthest = max(furthest, float((other - gradient).abs().max() / gradient.abs().max()))
        if not math.isclose(value, whole, rel_tol=1e-5, abs_tol=1e-6) or not furthest < 1e-4:
            return Check(name, "fails", f"is {whole:.6g} on one rank and {value:.6g} on {ranks}")
    return Check(name, "holds", f"gradients differ by {furthest:.0e} of the largest")


def _in_parts(loss: OwnLoss, logits: Tensor, mask: Tensor, count: int) -> tuple[float, Tensor]:
    leaf = logits.clone().requires_grad_()
    parts = [loss.sums(*pair) for pair in zip(leaf.chunk(count), mask.chunk(count), strict=True)]
    value = loss.value(torch.stack(parts).sum(0))
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


def _soft_masks(loss: OwnLoss) -> Check:
    if loss.takes_soft_masks:
        return Check("takes the masks of data.mixup", "holds")
    return Check("takes the masks of data.mixup", "warning", "takes 0 and 1 alone; data.mixup is refused with it")


def _finite(loss: OwnLoss) -> Check:
    """At empty, full and one-pixel masks, undecided and certain, in all types of logits."""
    name = "finite at empty, full and one-pixel masks"
    one_pixel = torch.zeros(2, 1, 16, 24)
    one_pixel[0, 0, 3, 4] = 1
    kinds = {"an empty": torch.zeros_like(one_pixel), "a full": torch.ones_like(one_pixel), "a one-pixel": one_pixel}
    odd: dict[bool, str] = {}
    for kind, mask in kinds.items():
        for dtype in DTYPES:
            for logit in (-30.0, -3.0, 0.0, 3.0, 30.0):
                leaf = torch.full_like(mask, logit).to(dtype).requires_grad_()
                value = loss.value(loss.sums(leaf, mask))
                (gradient,) = torch.autograd.grad(value, leaf)
                if not (value.isfinite() and gradient.isfinite().all()):
                    text = f"{value.item():.3g} for {kind} mask and logits of {logit:g} in {str(dtype)[6:]}"
                    odd.setdefault(abs(logit) < 30, text)
    if True in odd:
        return Check(name, "fails", f"loss or gradient is not finite: {odd[True]}; add a smoothing term")
    if odd:
        return Check(name, "warning", f"loss or gradient is not finite where it is certain: {odd[False]}")
    return Check(name, "holds")


def _derivative(loss: OwnLoss) -> Check:
    """The gradient against finite differences uphill, in float64 where the loss has it."""
    name = "its gradient is that of its value"
    try:
        slope, measured = _slopes(loss, torch.float64, 1e-4)
    except Exception:  # noqa: BLE001  the user's code may raise anything; some of it makes float32 tensors
        slope, measured = _slopes(loss, torch.float32, 1e-2)
    shown = f"{slope:.4g} by its gradient, {measured:.4g} by finite differences"
    if math.isclose(slope, measured, rel_tol=1e-2):
        return Check(name, "holds", shown)
    return Check(name, "warning", f"{shown}: a part of it is detached, rounded or has steps")


def _slopes(loss: OwnLoss, dtype: torch.dtype, step: float) -> tuple[float, float]:
    logits, mask = random_logits(3).to(dtype), masks().to(dtype)
    _, gradient = loss.function.value_and_gradient(loss.convention, logits, mask)
    direction = gradient.sign() * random_logits(3, seed=2).to(dtype).abs()
    measured = (_of(loss, logits + step * direction, mask) - _of(loss, logits - step * direction, mask)) / (2 * step)
    return float((gradient * direction).sum()), measured


def _cost(loss: OwnLoss) -> Check:
    mask = torch.zeros(SLICES, 1, SIZE, SIZE)
    mask[:, :, 50:100, 50:100] = 1
    logits = random_logits(SLICES, SIZE, SIZE)
    dice = Region(region.dice)
    (own_s, own_bytes), (dice_s, dice_bytes) = (_measure(each, logits, mask) for each in (loss.sums, dice.sums))
    message = (
        f"{own_s * 1e3:.0f} ms and {own_bytes / 2**20:.0f} MiB for {SLICES} slices of {SIZE} px on this CPU; dice: "
        f"{dice_s * 1e3:.0f} ms and {dice_bytes / 2**20:.0f} MiB"
    )
    return Check("speed and memory", "warning" if own_s > SLOW * dice_s else "holds", message)


def _measure(sums: Callable[[Tensor, Tensor], Tensor], logits: Tensor, mask: Tensor) -> tuple[float, int]:
    """Seconds of forward and backward, the faster of two, and bytes that are kept between them."""
    best, kept = math.inf, 0
    for _ in range(2):
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = sums(logits.clone().requires_grad_(), mask)
        total[0].backward()
        best, kept = min(best, time.perf_counter() - began), sum(sizes.values())
    return best, kept


def _of(loss: OwnLoss, logits: Tensor, mask: Tensor) -> float:
    with torch.no_grad():
        return loss.function.value(loss.convention, logits, mask).item()
