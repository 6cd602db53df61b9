"""The convention in which a loss of the user's own is to be called: the first that behaves as a loss (`probe`).

Legend: b batch, h height, w width.
"""

import math
import warnings
from contextlib import suppress
from dataclasses import replace

from segtrain.config import nearest
from segtrain.errors import ConfigError
from segtrain.losses.convention import ONE_CHANNEL, TWO_CHANNELS, WORDS, Convention, Takes, conventions
from segtrain.losses.own_function import OwnFunction
from segtrain.losses.probe import Failure, Probe, Stage, masks, probe, random_logits, value_of


def find(function: OwnFunction, takes: str | None) -> Probe:
    """The right convention among those that `takes` leaves. Raises ConfigError: there is none, or more than one."""
    words = _words(function, takes)
    failures: list[tuple[Convention, Failure]] = []
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
    function: OwnFunction, takes: Takes, words: frozenset[str], failures: list[tuple[Convention, Failure]]
) -> Probe | None:
    """The probe of the first convention that passes; one in which rows and columns count alike goes first."""
    unfair: Probe | None = None
    for convention in _candidates(function, takes, words):
        if unfair and convention.true_first != unfair.convention.true_first:
            break
        try:
            one = probe(function, convention)
        except Failure as failure:
            failures.append((convention, failure))
            continue
        if _is_fair(function, convention):
            return one
        # Without a channel the rows may be taken for channels, with one a sum over dimensions 1 and 2 is over rows.
        if convention.layout.flat:
            failures.append((convention, Failure(Stage.RAISES, "takes the rows of a mask [b, h, w] for channels")))
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
        with suppress(Failure):
            probe(function, swapped)
            raise _ambiguous(function, best.convention, swapped)
    return best


def _is_fair(function: OwnFunction, convention: Convention) -> bool:
    """Whether rows and columns count alike."""
    logits, mask = random_logits(3), masks()
    values = [value_of(function, convention, logits, mask), value_of(function, convention, logits.mT, mask.mT)]
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
        values = [value_of(function, each, logits, mask) for each in (one, other)]
    except Failure:
        return False
    return not math.isclose(*values, rel_tol=1e-5, abs_tol=1e-6)
