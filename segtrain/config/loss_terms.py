"""The loss of a config: one loss, or the weighted sum of several, each with options of its own. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from segtrain.config.choice import PART, check_choice, check_name, check_options, name_of, number, options_of
from segtrain.config.parts import LOSSES

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
TAKES = "takes"  # an option beside a loss of the user's own: how it is called, where a trial cannot tell


@dataclass(frozen=True, config=STRICT)
class Ramp:
    """A loss's weight that changes linearly with the step: `start` at the first, `end` after the last."""

    start: float = Field(ge=0)
    end: float = Field(ge=0)


@dataclass(frozen=True, config=STRICT)
class LossTerm:
    """A loss of a sum, with its weight and options."""

    part: str
    weight: float | Ramp = 1.0
    options: dict[str, Any] = field(default_factory=dict)


def loss_terms(loss: "LossConfig") -> list[LossTerm]:
    """The losses that a config asks for: one, or those of a sum."""
    if isinstance(loss, str) or PART in loss:
        return [LossTerm(name_of(loss), options=options_of(loss))]
    terms = []
    for name, term in loss.items():
        options = dict(term) if isinstance(term, Mapping) else {"weight": term}
        terms.append(LossTerm(name, options.pop("weight"), options))
    return terms


def _check_losses(loss: Any) -> Any:
    """A name, a mapping with `part`, or `{name: weight}`: a number, a Ramp, or a mapping of a weight and options."""
    if not isinstance(loss, Mapping) or PART in loss:
        return check_choice("loss", loss, LOSSES)
    terms: dict[str, Any] = {}
    for name, term in loss.items():
        check_name("loss", name, LOSSES)
        terms[name] = _term(name, term)
    if not any(_ever_counts(term.weight) for term in loss_terms(terms)):
        raise ValueError("a sum of losses needs at least one with a weight above 0")
    for term in loss_terms(terms):
        if term.part in LOSSES:
            check_options("loss", term.part, LOSSES[term.part], term.options)
    return terms


def _term(name: str, term: Any) -> float | Ramp | dict[str, Any]:
    """A loss's weight, or its weight and options. Raises ValueError: not a weight."""
    if not isinstance(term, Mapping):
        return term if isinstance(term, Ramp) else _weight(name, term)
    if set(term) == {"start", "end"}:
        return Ramp(start=_weight(name, term["start"]), end=_weight(name, term["end"]))
    if {"start", "end"} & set(term):
        raise ValueError(f"the weight of {name} is {dict(term)!r}; a weight that moves is {{start: 0.0, end: 1.0}}")
    if "weight" not in term:
        raise ValueError(f"{name} has no weight; write {{{name}: {{weight: 1.0, OPTION: value}}}}")
    options = {key: number(value) for key, value in term.items()}
    return {**options, "weight": _term(name, term["weight"])}


def _weight(name: str, weight: Any) -> float:
    try:
        number = math.nan if isinstance(weight, bool) else float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"the weight of {name} is {weight!r}; write a number, 0 or more")
    return number


def _ever_counts(weight: float | Ramp) -> bool:
    return max(weight.start, weight.end) > 0 if isinstance(weight, Ramp) else weight > 0


# A loss, or weights of a sum: {name: weight}, where a weight is a number, {start, end} or {weight, option: value}.
LossConfig = Annotated[str | dict[str, Any], BeforeValidator(_check_losses)]
