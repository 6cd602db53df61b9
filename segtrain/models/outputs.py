"""Outputs of a network of the user's own: where they are in what it returns, and how logits are made of them.

A sigmoid is not computed back from its rounded values: the call is watched, and what it was given is the logit, exactly
and at any precision.

Legend: b batch, r region, c channel (one a region; of one region two, background and lesion), h height, w width.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from segtrain.models import graph

Kind = Literal["logits", "sigmoid", "softmax"]
Path = tuple[int | str, ...]
Calls = deque[tuple[Tensor, Tensor]]  # what was returned, and what was given
WATCHED: set[Any] = {
    torch.sigmoid, Tensor.sigmoid, torch.special.expit, torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax,
}  # fmt: skip
NAMED = ("logits", "out")  # the main output, in mappings and result objects
TINY, NEXT_TO_ONE = 1e-37, 1 - 2**-24  # between which float32 probabilities have a logit


class Watching(TorchFunctionMode):
    """A context that adds what sigmoids and softmaxes return, and were given, to `calls`."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in WATCHED:
            self.calls.append((result, args[0] if args else kwargs["input"]))
        return result


# A function, not a method of the context: torch.compile knows no methods of it.
def given_for(result: Tensor, calls: Calls) -> Tensor | None:
    """What the call that returned this tensor was given; None where it is not among the calls."""
    for returned, given in calls:
        if returned is result:
            return given
    return None


@dataclass(frozen=True)
class Candidate:
    """A tensor of an output that may be a mask. `node`: where autograd's graph behind it begins."""

    path: Path
    tensor: Tensor  # [b, c, h, w]
    node: Any


@dataclass(frozen=True)
class Head:
    """One output. `enlarge`: the image's side over the output's. `exact`: its function's input is watched."""

    path: Path
    kind: Kind
    channels: int
    enlarge: int
    exact: bool
    regions: int = 1

    def logits(self, returned: Any, calls: Calls) -> Tensor:
        """[b, r, h, w], at the output's own size."""
        output = pick(returned, self.path)
        output = output.unsqueeze(1) if output.dim() == 3 else output
        if self.kind == "logits":
            return as_logits(output, self.regions)
        given = given_for(output, calls) if self.exact else None
        if given is not None:
            return as_logits(given, self.regions)
        output = output.float()
        if self.kind == "softmax":
            return as_logits(output.clamp_min(TINY).log(), self.regions)
        return output.clamp_min(TINY).log() - (-output.clamp(max=NEXT_TO_ONE)).log1p()


@dataclass(frozen=True)
class Form:
    """The outputs that are used, the main one first, of `total` that there are."""

    heads: tuple[Head, ...]
    total: int

    def __str__(self) -> str:
        main = self.heads[0]
        kind = "logits" if main.kind == "logits" else "probabilities"
        if main.regions > 1:
            kind += f" of {main.regions} regions"
        elif main.channels == 2:
            kind += " of two channels"
        if main.kind != "logits":
            kind += ", taken as logits" if main.exact else ", turned back into logits (fp32 alone)"
        size = f" at 1/{main.enlarge} of the size, enlarged" if main.enlarge > 1 else ""
        if self.total == 1:
            return f"{kind}{size}; 1 output"
        path = "".join(f"[{step!r}]" for step in main.path)
        used = f"{path} is used" if len(self.heads) == 1 else f"{len(self.heads)} are trained, {path} is predicted"
        return f"{kind}{size}; {self.total} outputs, of which {used}"

    @property
    def needs_fp32(self) -> bool:
        """Whether logits are computed from probabilities, which half precision rounds to 0 and 1."""
        return any(head.kind != "logits" and not head.exact for head in self.heads)

    def logits(self, network: nn.Module, image_bchw: Tensor) -> list[Tensor]:
        """Logits [b, r, h, w] of each head; the main one at the image's size, the others at their own."""
        calls: Calls = deque(maxlen=watched(self.total))
        if any(head.exact for head in self.heads):
            with Watching(calls):
                returned = network(image_bchw)
        else:
            returned = network(image_bchw)
        main, *others = [head.logits(returned, calls) for head in self.heads]
        if self.heads[0].enlarge > 1:
            main = F.interpolate(main, scale_factor=self.heads[0].enlarge, mode="bilinear", align_corners=False)
        return [main, *others]


def watched(total: int) -> int:
    """How many calls are kept for a network of so many outputs: each holds a tensor until the pass has ended."""
    return 2 * total


def as_logits(output: Tensor, regions: int = 1) -> Tensor:
    """The logits of the regions: of one in two channels their difference, since a softmax makes the same of it."""
    return output if output.shape[1] == regions else output[:, 1:] - output[:, :1]


def pick(returned: Any, path: Path) -> Tensor:
    """The tensor at a path of keys, names and places; a place in a tensor is along its dimension 1."""
    for step in path:
        if isinstance(returned, Tensor):
            returned = returned.select(1, int(step))
        elif isinstance(returned, Mapping | list | tuple):
            returned = returned[step]  # type: ignore[index]
        else:
            returned = getattr(returned, str(step))
    tensor: Tensor = returned
    return tensor


def candidates(returned: Any, batch: int, regions: int = 1, path: Path = ()) -> Iterator[Candidate]:
    """The tensors in what a network returned that may be masks: of a channel a region, or two of one region."""
    if isinstance(returned, Tensor):
        yield from _of_tensor(returned, batch, regions, path)
        return
    if isinstance(returned, Mapping):
        named = [name for name in NAMED if name in returned]
        for key in named[:1] or returned:
            yield from candidates(returned[key], batch, regions, (*path, key))
    elif isinstance(returned, list | tuple):
        for place, value in enumerate(returned):
            yield from candidates(value, batch, regions, (*path, place))
    else:
        named = [name for name in NAMED if hasattr(returned, name)]
        for name in named[:1]:
            yield from candidates(getattr(returned, name), batch, regions, (*path, name))


def _of_tensor(tensor: Tensor, batch: int, regions: int, path: Path) -> Iterator[Candidate]:
    if not tensor.is_floating_point() or tensor.dim() not in (3, 4, 5) or tensor.shape[0] != batch:
        return
    if tensor.dim() == 5:
        for place, node in enumerate(graph.stacked(tensor)):
            if _may_be_mask(tensor.shape[2], regions):
                yield Candidate((*path, place), tensor[:, place], node)
    elif tensor.dim() == 3 and regions == 1:
        yield Candidate(path, tensor.unsqueeze(1), tensor.grad_fn)
    elif tensor.dim() == 4 and _may_be_mask(tensor.shape[1], regions):
        yield Candidate(path, tensor, tensor.grad_fn)


def _may_be_mask(channels: int, regions: int) -> bool:
    return channels == regions or (regions == 1 and channels <= 2)


def ratio(tensor: Tensor, image_bchw: Tensor) -> int:
    """The image's side over the tensor's, where it is whole and the same for both sides; else 0."""
    (height, width), (full_height, full_width) = tensor.shape[-2:], image_bchw.shape[-2:]
    times = full_height // height if height else 0
    return times if (height * times, width * times) == (full_height, full_width) else 0


def shapes(returned: Any) -> str:
    """The shapes of all tensors in what a network returned, for messages."""
    if isinstance(returned, Tensor):
        return " x ".join(str(side) for side in returned.shape)
    values = returned.values() if isinstance(returned, Mapping) else returned
    if isinstance(values, list | tuple) or isinstance(returned, Mapping):
        return f"({'; '.join(shapes(value) for value in values)})"
    return type(returned).__name__
