"""Traps in networks of the user's own: each a cheap trial, with its verdict and what to do.

Legend: b batch, c channel, h height, w width.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segtrain.config.trial import Check
from segtrain.models.outputs import Calls, Form, Watching

NORMS: dict[str, tuple[type[nn.Module], ...]] = {
    "batch": (nn.modules.batchnorm._BatchNorm,),
    "instance": (nn.modules.instancenorm._InstanceNorm,),
    "group": (nn.GroupNorm,),
    "layer": (nn.LayerNorm,),
}
STATISTICS = {"mean", "std", "pixel_mean", "pixel_std", "image_mean", "image_std"}
# Where a change of the image may show, in its distances from the middle: 0 is the middle, 1 its own place.
OTHER_SIDE, BEYOND = -0.3, 1.25
MOST_CALLS = 64  # of a sigmoid or softmax, the last of a pass
PLAIN = set(vars(nn.Module()))


@dataclass(frozen=True)
class Observed:
    """One pass: what the network returned, which generators it drew from, whether it wrote into its input."""

    returned: Any
    calls: Calls
    drew: frozenset[str]
    wrote: bool


def observe(network: nn.Module, image_bchw: Tensor, seed: int, gradients: bool) -> Observed:
    """A pass over a copy of the images, with torch's generator at `seed`."""
    given = image_bchw.clone()
    torch.manual_seed(seed)
    before = generators()
    calls: Calls = deque(maxlen=MOST_CALLS)
    with torch.set_grad_enabled(gradients), Watching(calls):
        returned = network(given)
    after = generators()
    drew = frozenset(name for name, state in before.items() if state != after[name])
    return Observed(returned, calls, drew, not torch.equal(given, image_bchw))


def generators() -> dict[str, Any]:
    """The state of each generator that code may draw from, by name; states compare as equal or not."""
    numpys = np.random.get_state(legacy=False)
    return {
        "torch": [torch.get_rng_state().numpy().tobytes(), _cuda_state()],
        "Python's random": random.getstate(),
        "numpy.random": (numpys["state"]["pos"], numpys["has_gauss"], numpys["state"]["key"].tobytes()),
    }


def _cuda_state() -> bytes:
    return torch.cuda.get_rng_state().numpy().tobytes() if torch.cuda.is_initialized() else b""


def weights(network: nn.Module, again: nn.Module) -> Iterator[Check]:
    """Whether two networks of one seed have the same weights."""
    ours, theirs = network.state_dict(), again.state_dict()
    different = [name for name in ours if name not in theirs or not torch.equal(ours[name], theirs[name])]
    if different:
        yield Check(
            "weights",
            "fails",
            f"{different[0]} is another each time it is made from one seed; draw initial weights from torch's global "
            "generator, and initialise all of them",
        )
    else:
        yield Check("weights", "holds", "from the seed alone")


def structure(network: nn.Module) -> Iterator[Check]:
    """Layers that PyTorch does not know of, 3-D layers, tensors that stay where they are, normalisation inside."""
    strangers = list(_unregistered(network))
    if strangers:
        yield Check(
            "layers",
            "fails",
            f"its layers in {', '.join(strangers[:3])} are in a plain list or dict, so PyTorch neither trains nor "
            "saves them; put them into an nn.ModuleList or nn.ModuleDict",
        )
    else:
        yield Check("layers", "holds", "all registered")
    infinite = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
    if infinite:
        yield Check(
            "finite",
            "fails",
            f"its {infinite[0]} holds values that are not finite, which training takes for a failure; use large "
            "numbers instead, or register the buffer with persistent=False",
        )
    kinds = {type(module).__name__ for module in network.modules()}
    if "Conv3d" in kinds and "Conv2d" not in kinds:
        yield Check(
            "dimensions",
            "fails",
            "is built of 3-D convolutions alone, and slices are images; build it in 2-D by an "
            "option, often spatial_dims=2",
        )
    tensors = [
        f"{name}.{key}".lstrip(".")
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and value.numel()
    ]
    if tensors:
        yield Check(
            "tensors",
            "warning",
            f"its tensors {', '.join(tensors[:3])} do not move to a GPU with it; register_buffer them",
        )
    named = [key for key in _names(network) if key.rpartition(".")[2] in STATISTICS]
    if named:
        yield Check(
            "value range",
            "warning",
            f"has {', '.join(named[:3])}: if it normalises its input, take that out, since images are normalised",
        )


def _names(network: nn.Module) -> Iterator[str]:
    for name, module in network.named_modules():
        for key, value in (*vars(module).items(), *module.named_buffers(recurse=False)):
            if isinstance(value, Tensor | list | tuple | np.ndarray) and key not in PLAIN:
                yield f"{name}.{key}".lstrip(".")


def _unregistered(network: nn.Module) -> Iterator[str]:
    """Attributes that hold modules or parameters which are not the network's."""
    known = {id(module) for module in network.modules()} | {id(parameter) for parameter in network.parameters()}
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            if key not in PLAIN and any(id(one) not in known for one in _trainable(value, 3)):
                yield f"{name}.{key}".lstrip(".")


def _trainable(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, nn.Module | nn.Parameter):
        yield value
    elif depth and isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _trainable(one, depth - 1)


def draws(passes: list[Observed]) -> Iterator[Check]:
    """Randomness in training: two passes from the same seed, which give the same if it comes from torch alone."""
    first, second = passes
    foreign = sorted(first.drew - {"torch"})
    if foreign:
        yield Check(
            "randomness",
            "fails",
            f"draws from {' and '.join(foreign)} while it trains, and a resumed run would draw other numbers; "
            "draw from torch, which every step seeds",
        )
    elif not _equal(first.returned, second.returned):
        yield Check(
            "randomness",
            "fails",
            "gives another output from the same seed: it draws from a generator of its own, or keeps something from "
            "one pass to the next; draw from torch's global generator",
        )
    elif "torch" in first.drew:
        yield Check(
            "randomness", "holds", "draws in training, seeded by step and rank: other numbers at other world sizes"
        )
    else:
        yield Check("randomness", "holds", "draws nothing")


def parameters(network: nn.Module, unused: set[str], other: set[str]) -> Iterator[Check]:
    """Parameters that the outputs do not depend on; `other`: those of another pass, where layers are dropped."""
    if unused != other:
        yield Check(
            "parameters",
            "fails",
            f"skips layers at random ({next(iter(unused ^ other))}), and ranks would wait for their gradients; "
            "multiply by a mask instead, as timm's DropPath does",
        )
    count = len(list(network.parameters()))
    if count == len(unused):
        yield Check("parameters", "fails", "its output depends on none of its parameters; nothing could be trained")
    elif unused:
        few = ", ".join(sorted(unused)[:3])
        yield Check("parameters", "holds", f"{len(unused)} of {count} unused and frozen: {few}")
    else:
        yield Check("parameters", "holds", "all used")


def evaluation(network: nn.Module, form: Form, image_bchw: Tensor) -> Iterator[Check]:
    """Draws in evaluation, values that are not finite, samples that are mixed."""
    before = generators()
    with torch.no_grad():
        logits = form.logits(network, image_bchw.clone())[0]
        drew = before != generators()
        changed = form.logits(network, torch.stack([image_bchw[0], 3 * image_bchw[1] + 1]))[0]
    if drew:
        yield Check(
            "evaluation",
            "fails",
            "draws at random in evaluation too, so no score could be repeated; give F.dropout training=self.training",
        )
    if not logits.isfinite().all():
        yield Check("finite", "fails", "gives values that are not finite for a normal image; check its initialisation")
    if not torch.allclose(changed[0], logits[0], rtol=1e-3, atol=1e-3 * float(logits[0].abs().max())):
        yield Check(
            "samples",
            "fails",
            "mixes the samples of a batch in evaluation: changing one changes the output of another; normalise or "
            "attend within each sample",
        )
    else:
        yield Check("samples", "holds", "each its own")


def displacement(network: nn.Module, form: Form, image_bchw: Tensor) -> str | None:
    """Where the output changes, if that is not where the image does; None: it is, "": it does not change at all.

    The image changes at a quarter of its height and three quarters of its width, the second one the other way round.
    A network that sees far may answer nearer to the middle, but not beyond its place (unpadded convolutions whose
    result is stretched) or on the other side (swapped axes).
    """
    (height, width), changed = image_bchw.shape[-2:], image_bchw.clone()
    places = ((1 / 4, 3 / 4), (3 / 4, 1 / 4))
    for sample, (down, right) in zip(changed, places, strict=True):
        top, left = int((down - 1 / 12) * height), int((right - 1 / 12) * width)
        sample[:, top : top + height // 6, left : left + width // 6] *= -3
    with torch.no_grad():
        change_bhw = (form.logits(network, changed)[0] - form.logits(network, image_bchw.clone())[0]).square().sum(1)
    change_bhw = change_bhw.double().cpu()
    weight_bhw = change_bhw / change_bhw.sum((1, 2), keepdim=True)
    if not weight_bhw.isfinite().all():
        return ""
    outward, message = [], ""
    for weight_hw, place in zip(weight_bhw, places, strict=True):
        centre = (
            float((weight_hw.sum(1) * torch.arange(height)).sum()) / height,
            float((weight_hw.sum(0) * torch.arange(width)).sum()) / width,
        )
        outward.append([(shown - 1 / 2) / (true - 1 / 2) for shown, true in zip(centre, place, strict=True)])
        message = f"a change at {place[0]:.0%}, {place[1]:.0%} of the image shows at {centre[0]:.0%}, {centre[1]:.0%}"
    means = [sum(along) / len(along) for along in zip(*outward, strict=True)]  # along rows, along columns
    return message if min(means) < OTHER_SIDE or max(means) > BEYOND else None


def norms(network: nn.Module) -> str:
    """The kinds of normalisation, the most frequent first."""
    counts = {name: sum(isinstance(module, kinds) for module in network.modules()) for name, kinds in NORMS.items()}
    return ", ".join(sorted(filter(counts.get, counts), key=lambda name: -counts[name])) or "none"


def has_instance_norm(network: nn.Module) -> bool:
    """Whether one pixel would have no variance."""
    return any(isinstance(module, NORMS["instance"]) for module in network.modules())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return all(_equal(*pair) for pair in zip(one, other, strict=True))
    return True
