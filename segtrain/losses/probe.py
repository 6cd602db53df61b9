"""One trial of a loss of the user's own, called in one convention on made-up masks: does it behave as a loss then?

That a call raises nothing proves nothing. A loss falls from the inverted mask over an undecided prediction to the
truth, on a large and on a tiny lesion, and has a gradient.

Legend: b batch, h height, w width.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from segtrain.errors import gist
from segtrain.losses.convention import Convention
from segtrain.losses.own_function import OwnFunction, Unfit

HEIGHT, WIDTH = 64, 96  # both unlike each other and unlike the samples, so that no two axes can be confused
RISING = (0.0, 1.0, 3.0, 8.0)  # logits of the truth, less and less undecided
SATURATED = (20.0, 40.0, 80.0)  # where a sigmoid is 1 in float32, and 0 in the end
SLACK = 1e-3  # of a loss's range
TWICE = 0.2  # of the value of an undecided prediction: a loss that keeps so much for the truth may apply two sigmoids
NO_GRADIENT = "a softmax over one channel, a rounded prediction or a channel that is left out"


class Stage(IntEnum):
    """How far a convention came; the furthest one's reason is the one to tell."""

    RAISES = 0
    FINITE = 1
    FALLS = 2
    MASKS = 3
    GRADIENT = 4
    RISES = 5
    # A loss that came so far is called in the right way, and unfit.
    NO_LESION = 6
    STATE = 7


class Failure(Exception):
    """A convention in which the loss does not behave as one."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.reason = stage, reason


@dataclass(frozen=True)
class Probe:
    """A loss called in one convention. `values` by logit of the truth; `remarks` that do not refuse it."""

    convention: Convention
    values: Mapping[float, float]
    remarks: tuple[str, ...] = ()

    @property
    def best(self) -> float:
        """Its value for the truth: the least, since one that smooths labels rises where it is too certain."""
        return min(value for scale, value in self.values.items() if scale > 0 and math.isfinite(value))

    @property
    def spread(self) -> float:
        """Its value for the inverted mask less that for the truth."""
        return self.values[-8.0] - self.best


def masks() -> Tensor:
    """[3, 1, h, w]: a lesion of 25%, one of 1%, none."""
    mask = torch.zeros(3, 1, HEIGHT, WIDTH)
    mask[0, :, 16:48, 24:72] = 1
    mask[1, :, 5:11, 70:80] = 1
    return mask


def random_logits(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Logits [count, 1, h, w] without a pattern, of both signs, few of them saturated."""
    return 3 * torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(seed))


def value_of(function: OwnFunction, convention: Convention, logits: Tensor, mask: Tensor) -> float:
    """The loss. Raises Failure where it cannot be called so."""
    try:
        with torch.no_grad():
            return function.value(convention, logits, mask).item()
    except Exception as error:  # the user's code may raise anything
        raise Failure(Stage.RAISES, _why(error)) from error


def _why(error: Exception) -> str:
    return gist(error) if isinstance(error, Unfit) else f"cannot be called: {type(error).__name__}: {gist(error)}"


def probe(function: OwnFunction, convention: Convention) -> Probe:
    """The loss called so. Raises Failure where it does not behave as a loss then."""
    remarks: list[str] = []
    batch = masks()
    _depends(function, convention, batch)
    values = _values(function, convention, batch, "")
    for name, mask in (("on a lesion of 25%", batch[:1]), ("on a lesion of 1%", batch[1:2])):
        _values(function, convention, mask, name)
    _without_lesion(function, convention, batch[2:], remarks)
    _each_mask_with_its_sample(function, convention, batch, values)
    _gradient(function, convention, batch)
    again = value_of(function, convention, 0 * batch, batch)
    if again != values[0.0]:
        raise Failure(
            Stage.STATE,
            f"gives {values[0.0]:.6g} and then {again:.6g} for the same: it keeps something between calls, or draws "
            "numbers; make it a function of prediction and mask alone",
        )
    if odd := [scale for scale in SATURATED if not math.isfinite(values[scale])]:
        remarks.append(
            f"is {values[odd[0]]} for a perfect prediction with logits of {odd[0]:g}: training ends if it gets there; "
            "add a small constant inside of logarithms and quotients"
        )
    result = Probe(convention, values, tuple(remarks))
    if "probabilities" in convention.takes and result.best > TWICE * values[0.0] > 0:
        remark = (
            f"is still {result.best:.3g} for the truth ({values[0.0]:.3g} undecided): that may be its least value, or "
            "a part of it applies a sigmoid or softmax to probabilities"
        )
        result = replace(result, remarks=(*remarks, remark))
    return result


def _values(function: OwnFunction, convention: Convention, mask: Tensor, where: str) -> dict[float, float]:
    """The loss by logit of the truth, which has to fall, and then to stay."""
    sign = 2 * mask - 1
    values = {s: value_of(function, convention, s * sign, mask) for s in (-8.0, *RISING, *(() if where else SATURATED))}
    moderate = [values[scale] for scale in (-8.0, *RISING)]
    place = f" {where}" if where else ""
    if not all(map(math.isfinite, moderate)):
        shown = ", ".join(f"{value:.3g}" for value in moderate)
        raise Failure(Stage.FINITE, f"is not finite{place}: {shown} from the inverted mask to the truth")
    inverted, undecided, truth = values[-8.0], values[0.0], values[8.0]
    slack = SLACK * (max(moderate) - min(moderate))
    shown = f"{inverted:.4g} for the inverted mask, {undecided:.4g} for an undecided prediction and {truth:.4g} for the"
    if inverted + slack < undecided < truth - slack:
        raise Failure(
            Stage.RISES,
            f"rises{place}: {shown} truth; is it a score, or is the background taken for the lesion? return 1 - score, "
            "or swap the channels",
        )
    # Labels that are smoothed let it rise again where it is too certain; a prediction in place of its logit at once.
    steps = itertools.pairwise((0.0, 1.0, 3.0))
    falls = inverted - slack > undecided > values[3.0] + slack and all(values[b] <= values[a] + slack for a, b in steps)
    if slack == 0:
        raise Failure(Stage.GRADIENT, f"is {truth:.4g} whatever is predicted{place}: {NO_GRADIENT}")
    if not falls or truth > (undecided + inverted) / 2:
        raise Failure(Stage.FALLS, f"does not fall{place}: {shown} truth; a loss falls all the way")
    # A Dice with little smoothing falls late where there is no lesion, but it stops.
    late, last = (values.get(scale, math.nan) for scale in SATURATED[-2:])
    if last < late - slack:
        raise Failure(Stage.FALLS, f"falls without end{place}: {truth:.4g}, then {last:.4g} for the truth")
    return values


def _each_mask_with_its_sample(
    function: OwnFunction, convention: Convention, batch: Tensor, values: Mapping[float, float]
) -> None:
    """Raise Failure where samples may change their masks."""
    moved = value_of(function, convention, 8 * (2 * batch - 1), batch.roll(1, 0))
    if not moved > values[8.0] + SLACK * (values[-8.0] - values[8.0]):
        raise Failure(
            Stage.MASKS,
            f"gives the same ({moved:.4g}) where each sample has another's mask: it compares every sample with every "
            "mask, as [b, 1, h, w] with [b, h, w] does; give both the same shape",
        )


def _without_lesion(function: OwnFunction, convention: Convention, mask: Tensor, remarks: list[str]) -> None:
    values = [value_of(function, convention, torch.full_like(mask, logit), mask) for logit in (8.0, 0.0, -8.0)]
    shown = ", ".join(f"{value:.3g}" for value in values)
    if not all(map(math.isfinite, values)):
        raise Failure(
            Stage.NO_LESION,
            f"is not finite for a batch without lesion ({shown}), as many slices are; add a smoothing term",
        )
    full, undecided, empty = values
    if empty > max(full, undecided) + SLACK * abs(full):
        raise Failure(
            Stage.NO_LESION, f"rises where nothing is predicted in a batch without lesion: {shown} from all to nothing"
        )
    if empty == full == undecided:
        remarks.append(f"is {empty:.3g} for a batch without lesion whatever is predicted: it learns nothing from it")


def _depends(function: OwnFunction, convention: Convention, mask: Tensor) -> None:
    """Raise Failure where the call raises, or gives what has no gradient."""
    try:
        function.value(convention, torch.zeros_like(mask), mask)
    except Exception as error:  # the user's code may raise anything
        raise Failure(Stage.RAISES, _why(error)) from error
    try:
        function.value_and_gradient(convention, torch.zeros_like(mask), mask)
    except Exception as error:  # the user's code may raise anything
        raise Failure(Stage.GRADIENT, _why(error)) from error


def _gradient(function: OwnFunction, convention: Convention, batch: Tensor) -> None:
    """Raise Failure unless there is one at each lesion: undecided, and certain and wrong.

    A probability that is clamped has none for logits that are certain.
    """
    noise = 0.1 * random_logits(1)  # without ties, of which a share of the voxels would take the first
    for mask in (batch[:1], batch[1:2]):
        for certainty in (0.0, 3.0):
            logits = noise - certainty * (2 * mask - 1)
            _, gradient = function.value_and_gradient(convention, logits, mask)
            if not gradient.isfinite().all():
                raise Failure(Stage.GRADIENT, "has a gradient that is not finite; add a small constant inside of roots")
            if not gradient.any():
                raise Failure(Stage.GRADIENT, f"has no gradient: {NO_GRADIENT}")
