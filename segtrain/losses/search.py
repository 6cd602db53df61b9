"""The convention in which a loss of the user's own is to be called, found by trial on made-up masks.

That a call raises nothing proves nothing. The right way is the one in which the loss falls from the inverted mask over
an undecided prediction to the truth, on a large and on a tiny lesion, and has a gradient.

Legend: b batch, h height, w width.
"""

import itertools
import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from segtrain.config import nearest
from segtrain.errors import ConfigError
from segtrain.losses.convention import ONE_CHANNEL, TWO_CHANNELS, WORDS, Convention, Takes, conventions
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


class _Failure(Exception):
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


def find(function: OwnFunction, takes: str | None) -> Probe:
    """The right convention among those that `takes` leaves. Raises ConfigError: there is none, or more than one."""
    words = _words(function, takes)
    failures: list[tuple[Convention, _Failure]] = []
    # A loss that warns is likely called in the wrong way: MONAI's leave a softmax over one channel out. Some always do.
    for action in ("error", "ignore"):
        for tier in (ONE_CHANNEL, TWO_CHANNELS):
            with warnings.catch_warnings():
                warnings.simplefilter(action, UserWarning)
                passed = [probe for kind in tier if (probe := _first(function, kind, words, failures))]
            if passed:
                best = _better(function, *passed) if len(passed) == 2 else passed[0]
                return _in_order(function, best, words)
            if any(failure.stage >= Stage.NO_LESION for _, failure in failures):
                break
    if not failures:
        raise ConfigError(f"{function}: takes={takes}: no loss is called so; there are {', '.join(WORDS)}")
    convention, failure = max(failures, key=lambda pair: pair[1].stage)
    more = f", called with {convention}," if failure.stage > Stage.RAISES else ""
    raise ConfigError(f"{function}{more} {failure.reason}")


def _words(function: OwnFunction, takes: str | None) -> frozenset[str]:
    words = (takes or "").replace(",", " ").split()
    for word in words:
        if word not in WORDS:
            near = nearest(word, WORDS)
            hint = f" (did you mean {near}?)" if near else ""
            raise ConfigError(f"{function}: takes={takes}: {word} is unknown{hint}; there are {', '.join(WORDS)}")
    return frozenset(words)


def _candidates(function: OwnFunction, takes: Takes, words: frozenset[str]) -> list[Convention]:
    orders = function.orders
    if named := words & {"true_first", "pred_first"}:
        orders = tuple(sorted(name == "true_first" for name in named))
    return [each for each in conventions(takes, orders) if words <= set(each.words)]


def _first(
    function: OwnFunction, takes: Takes, words: frozenset[str], failures: list[tuple[Convention, _Failure]]
) -> Probe | None:
    """The probe of the first convention that passes; one in which rows and columns count alike goes first."""
    unfair: Probe | None = None
    for convention in _candidates(function, takes, words):
        if unfair and convention.true_first != unfair.convention.true_first:
            break
        try:
            one = probe(function, convention)
        except _Failure as failure:
            failures.append((convention, failure))
            continue
        if _is_fair(function, convention):
            return one
        # Without a channel the rows may be taken for channels, with one a sum over dimensions 1 and 2 is over rows.
        if convention.layout.flat:
            failures.append((convention, _Failure(Stage.RAISES, "takes the rows of a mask [b, h, w] for channels")))
        elif unfair is None:
            unfair = one
    return unfair and replace(unfair, remarks=(*unfair.remarks, "treats rows and columns of the image differently"))


def _better(function: OwnFunction, one: Probe, other: Probe) -> Probe:
    """The one whose loss for the truth is clearly smaller: a sigmoid too many keeps it up."""
    low, high = sorted((one, other), key=lambda each: each.best)
    if high.best - low.best > 0.05 * (low.values[0.0] - low.best) or not _differ(
        function, one.convention, other.convention
    ):
        return low
    raise _ambiguous(function, one.convention, other.convention)


def _in_order(function: OwnFunction, best: Probe, words: frozenset[str]) -> Probe:
    """The probe. Raises ConfigError where prediction and mask may change places, and the values with them."""
    swapped = replace(best.convention, true_first=not best.convention.true_first)
    if swapped in _candidates(function, swapped.takes, words) and _differ(function, best.convention, swapped):
        with suppress(_Failure):
            probe(function, swapped)
            raise _ambiguous(function, best.convention, swapped)
    return best


def _is_fair(function: OwnFunction, convention: Convention) -> bool:
    """Whether rows and columns count alike."""
    logits, mask = random_logits(3), masks()
    values = [_value(function, convention, logits, mask), _value(function, convention, logits.mT, mask.mT)]
    return math.isclose(*values, rel_tol=1e-5, abs_tol=1e-6)


def _ambiguous(function: OwnFunction, one: Convention, other: Convention) -> ConfigError:
    first, second = (" ".join(each.words) for each in (one, other))
    return ConfigError(
        f"{function} can be called with {one} and with {other}, and gives other values; set its option takes to "
        f"{first!r} or {second!r}"
    )


def _differ(function: OwnFunction, one: Convention, other: Convention) -> bool:
    """Whether both can be called, and give other values."""
    logits, mask = random_logits(3), masks()
    try:
        values = [_value(function, each, logits, mask) for each in (one, other)]
    except _Failure:
        return False
    return not math.isclose(*values, rel_tol=1e-5, abs_tol=1e-6)


def _value(function: OwnFunction, convention: Convention, logits: Tensor, mask: Tensor) -> float:
    try:
        with torch.no_grad():
            return function.value(convention, logits, mask).item()
    except Exception as error:  # the user's code may raise anything
        raise _Failure(Stage.RAISES, _why(error)) from error


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, Unfit) else f"cannot be called: {type(error).__name__}: {text}"


def probe(function: OwnFunction, convention: Convention) -> Probe:
    """The loss called so. Raises _Failure where it does not behave as a loss then."""
    remarks: list[str] = []
    batch = masks()
    _depends(function, convention, batch)
    values = _values(function, convention, batch, "")
    for name, mask in (("on a lesion of 25%", batch[:1]), ("on a lesion of 1%", batch[1:2])):
        _values(function, convention, mask, name)
    _without_lesion(function, convention, batch[2:], remarks)
    truth = 8 * (2 * batch - 1)
    moved = _value(function, convention, truth, batch.roll(1, 0))
    if not moved > values[8.0] + SLACK * (values[-8.0] - values[8.0]):
        raise _Failure(
            Stage.MASKS,
            f"gives the same ({moved:.4g}) where each sample has another's mask: it compares every sample with every "
            "mask, as [b, 1, h, w] with [b, h, w] does; give both the same shape",
        )
    _gradient(function, convention, batch)
    again = _value(function, convention, 0 * batch, batch)
    if again != values[0.0]:
        raise _Failure(
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
            f"is still {result.best:.3g} for the truth ({values[0.0]:.3g} undecided): does a part of it apply a "
            "sigmoid or softmax to probabilities?"
        )
        result = replace(result, remarks=(*remarks, remark))
    return result


def _values(function: OwnFunction, convention: Convention, mask: Tensor, where: str) -> dict[float, float]:
    """The loss by logit of the truth, which has to fall, and then to stay."""
    sign = 2 * mask - 1
    values = {s: _value(function, convention, s * sign, mask) for s in (-8.0, *RISING, *(() if where else SATURATED))}
    moderate = [values[scale] for scale in (-8.0, *RISING)]
    place = f" {where}" if where else ""
    if not all(map(math.isfinite, moderate)):
        shown = ", ".join(f"{value:.3g}" for value in moderate)
        raise _Failure(Stage.FINITE, f"is not finite{place}: {shown} from the inverted mask to the truth")
    inverted, undecided, truth = values[-8.0], values[0.0], values[8.0]
    slack = SLACK * (max(moderate) - min(moderate))
    shown = f"{inverted:.4g} for the inverted mask, {undecided:.4g} for an undecided prediction and {truth:.4g} for the"
    if inverted + slack < undecided < truth - slack:
        raise _Failure(
            Stage.RISES,
            f"rises{place}: {shown} truth; is it a score, or is the background taken for the lesion? return 1 - score, "
            "or swap the channels",
        )
    # Labels that are smoothed let it rise again where it is too certain; a prediction in place of its logit at once.
    steps = itertools.pairwise((0.0, 1.0, 3.0))
    falls = inverted - slack > undecided > values[3.0] + slack and all(values[b] <= values[a] + slack for a, b in steps)
    if slack == 0:
        raise _Failure(Stage.GRADIENT, f"is {truth:.4g} whatever is predicted{place}: {NO_GRADIENT}")
    if not falls or truth > (undecided + inverted) / 2:
        raise _Failure(Stage.FALLS, f"does not fall{place}: {shown} truth; a loss falls all the way")
    # A Dice with little smoothing falls late where there is no lesion, but it stops.
    late, last = (values.get(scale, math.nan) for scale in SATURATED[-2:])
    if last < late - slack:
        raise _Failure(Stage.FALLS, f"falls without end{place}: {truth:.4g}, then {last:.4g} for the truth")
    return values


def _without_lesion(function: OwnFunction, convention: Convention, mask: Tensor, remarks: list[str]) -> None:
    values = [_value(function, convention, torch.full_like(mask, logit), mask) for logit in (8.0, 0.0, -8.0)]
    shown = ", ".join(f"{value:.3g}" for value in values)
    if not all(map(math.isfinite, values)):
        raise _Failure(
            Stage.NO_LESION,
            f"is not finite for a batch without lesion ({shown}), as many slices are; add a smoothing term",
        )
    full, undecided, empty = values
    if empty > max(full, undecided) + SLACK * abs(full):
        raise _Failure(
            Stage.NO_LESION, f"rises where nothing is predicted in a batch without lesion: {shown} from all to nothing"
        )
    if empty == full == undecided:
        remarks.append(f"is {empty:.3g} for a batch without lesion whatever is predicted: it learns nothing from it")


def _depends(function: OwnFunction, convention: Convention, mask: Tensor) -> None:
    """Raise _Failure where the call raises, or gives what has no gradient."""
    try:
        function.value(convention, torch.zeros_like(mask), mask)
    except Exception as error:  # the user's code may raise anything
        raise _Failure(Stage.RAISES, _why(error)) from error
    try:
        function.value_and_gradient(convention, torch.zeros_like(mask), mask)
    except Exception as error:  # the user's code may raise anything
        raise _Failure(Stage.GRADIENT, _why(error)) from error


def _gradient(function: OwnFunction, convention: Convention, batch: Tensor) -> None:
    """Raise _Failure unless there is one at each lesion: undecided, and certain and wrong.

    A probability that is clamped has none for logits that are certain.
    """
    noise = 0.1 * random_logits(1)  # without ties, of which a share of the voxels would take the first
    for mask in (batch[:1], batch[1:2]):
        for certainty in (0.0, 3.0):
            logits = noise - certainty * (2 * mask - 1)
            _, gradient = function.value_and_gradient(convention, logits, mask)
            if not gradient.isfinite().all():
                raise _Failure(
                    Stage.GRADIENT, "has a gradient that is not finite; add a small constant inside of roots"
                )
            if not gradient.any():
                raise _Failure(Stage.GRADIENT, f"has no gradient: {NO_GRADIENT}")
