"""Schedules of the user's own as tables: a function of the step or of the progress, or a scheduler class.

A scheduler is stepped through the whole run once, on an optimiser that trains nothing, and its learning rates are kept:
so the rate is a function of the step, and a resumed run needs nothing else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from segtrain.config import Reference
from segtrain.config.importing import explained
from segtrain.config.trial import Check
from segtrain.engines.schedule_arguments import (
    ABSENT,
    EPOCH,
    EPOCHS,
    LR,
    OPTIMIZER,
    PROGRESS,
    STEP,
    STEPS,
    VARIED,
    Arguments,
    parameters_of,
)
from segtrain.errors import ConfigError


@dataclass(frozen=True)
class Table:
    """The rate of each step after the warm-up; the last one from its end on."""

    rates: Sequence[float]
    steps_per_rate: int
    description: str
    checks: tuple[Check, ...]

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from the warm-up's end."""
        return self.rates[min(step // self.steps_per_rate, len(self.rates) - 1)]


def make_table(
    reference: Reference, options: Mapping[str, Any], lr: float, total_steps: int, steps_per_epoch: int
) -> Table:
    """The table of a schedule of the user's own. Raises ConfigError."""
    schedule = _OwnSchedule(reference, options, lr, max(1, total_steps), steps_per_epoch)
    with explained(reference, "fails as a schedule", "change optim.schedule"):
        rates, form = schedule.rates()
    if bad := next((rate for rate in rates if not 0 <= rate < math.inf), None):
        raise ConfigError(f"optim.schedule={reference}: gives a rate of {bad!r}; a rate is a number of 0 or more")
    per_rate = 1 if schedule.unit == "step" else steps_per_epoch
    settings = ", ".join(f"{key}={value}" for key, value in schedule.settings.items())
    description = (
        f"{reference.short}({settings}): {form}, by {schedule.unit}; from {rates[0]:g} to {rates[-1]:g}, at most "
        f"{max(rates):g}"
    )
    return Table(rates, per_rate, description, tuple(_checks(rates, lr)))


def _checks(rates: Sequence[float], lr: float) -> list[Check]:
    checks = [Check("rates", "holds", f"{min(rates):g} to {max(rates):g}")]
    if len(set(rates)) == 1 and len(rates) > 1:
        message = f"is {rates[0]:g} throughout, as optim.schedule=constant would be; is its condition ever true?"
        checks.append(Check("rate changes", "warning", message))
    if not math.isclose(rates[0], lr, rel_tol=0.01):
        message = f"begins at {rates[0]:g}, not at optim.lr={lr:g}; its highest rate is {max(rates):g}"
        checks.append(Check("begins at optim.lr", "warning", message))
    return checks


class _OwnSchedule(Arguments):
    """One schedule, called for the whole run."""

    def rates(self) -> tuple[list[float], str]:
        """The rate of each step or epoch, and what kind of schedule this is."""
        if isinstance(self.function, type) and issubclass(self.function, ReduceLROnPlateau):
            self.refuse("follows a metric, which is no function of the step; use polynomial or warmup_cosine")
        if next(iter(self.parameters), None) in OPTIMIZER:
            return self._of_scheduler(), "a scheduler, run through"
        if not isinstance(self.function, type):
            return self._of_function()
        self.unit = self.declared or self.unit_of_names() or "step"
        self.fill()
        given, self.options = self.settings, {}
        self.function = self.function(**given)
        self.parameters = parameters_of(self.function)
        answer = self._of_function()
        self.settings = given
        return answer

    def _of_scheduler(self) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=self.lr, momentum=0.9)
        unit = self.declared or self.unit_of_names()
        if "t_in_epochs" in self.parameters:  # timm's schedulers say what they count
            by_epochs = self.options.get("t_in_epochs", self.parameters["t_in_epochs"].default)
            unit = self.declared or ("epoch" if by_epochs else "step")
            self.settings["t_in_epochs"] = unit == "epoch"
        self.unit = unit or "step"
        fills = self.fill()
        advance, from_the_first = self._advance(self.function(optimizer, **self.settings))
        if unit is None and not fills:
            self.refuse("counts steps or epochs, which its names do not tell; set optim.schedule.unit=step or epoch")
        rates = []
        for place in range(self.length):
            if place or from_the_first:
                optimizer.step()
                advance(place)
            rates.append(float(optimizer.param_groups[0]["lr"]))
        return rates

    def _advance(self, scheduler: Any) -> tuple[Callable[[int], Any], bool]:
        """A call that goes on to a step or epoch, and whether the first one is to be asked for too."""
        if not callable(getattr(scheduler, "step", None)):
            self.refuse("has no step(); name a function f(step, total_steps)")
        by_step = callable(getattr(scheduler, "step_update", None)) and not getattr(scheduler, "t_in_epochs", True)
        call = scheduler.step_update if by_step else scheduler.step
        required = [name for name, p in parameters_of(call).items() if p.default is ABSENT and p.kind not in VARIED]
        if not required:
            return lambda place: call(), False
        if len(required) > 1 or required[0] not in (*STEP, *EPOCH, "num_updates", "n", "t"):
            self.refuse(f"needs {required[-1]} at each step, which is no function of the step; use polynomial")
        return lambda place: call(place), True

    def _of_function(self) -> tuple[list[float], str]:
        """Of f(step, total_steps), f(progress) and the like: rates, or factors of optim.lr."""
        time, is_step = self._time_of_function()
        self.unit = self.declared or ("epoch" if time in EPOCH else "step")
        self.settings = dict(self.options)
        is_step = self.fill(but=time) or is_step or time in (*STEP, *EPOCH)
        steps, progress = range(self.length), [place / self.length for place in range(self.length)]
        if time in PROGRESS or is_step:
            values = [float(self.function(place, **self.settings)) for place in (steps if is_step else progress)]
            usable = {time: values}
        else:
            usable = {name: self._tried(places) for name, places in (("step", steps), ("progress", progress))}
        scales = {name: scale for name, values in usable.items() if (scale := self._scale(values))}
        if len(scales) > 1:
            self.refuse(f"may be a function of the step or of the progress; call its parameter {time} step or progress")
        if not scales:
            values = next(iter(usable.values())) or [math.nan]
            self.refuse(
                f"gives {min(values):g} to {max(values):g}, neither factors of optim.lr (1 at the highest) nor rates "
                f"(near optim.lr={self.lr:g} at the highest); change it or optim.lr"
            )
        ((name, (factor, what)),) = scales.items()
        return [factor * value for value in usable[name]], f"f({name}), {what}"

    def _time_of_function(self) -> tuple[str, bool]:
        """The parameter that each call gives, which is the first that is not set; whether it is known to be a step.

        Of f(x, y) with names that tell nothing, the second is the number of all steps.
        """
        free = [name for name, p in self.parameters.items() if name not in self.options and p.kind not in VARIED]
        if not free:
            self.refuse("takes nothing; write f(step, total_steps) or f(progress)")
        needed = [name for name in free[1:] if self.parameters[name].default is ABSENT]
        is_pair = len(needed) == 1 and needed[0] not in (*STEPS, *EPOCHS, *LR, *STEP, *EPOCH, *PROGRESS)
        if is_pair and free[0] not in PROGRESS:
            self.options[needed[0]] = self.total_steps if self.declared != "epoch" else self.epochs
            return free[0], True
        return free[0], False

    def _tried(self, places: Sequence[float]) -> list[float]:
        """The values, where it has some."""
        try:
            return [float(self.function(place, **self.settings)) for place in places]
        except (ArithmeticError, ValueError, TypeError, LookupError):
            return []

    def _scale(self, values: Sequence[float]) -> tuple[float, str] | None:
        """What the values are to be multiplied with: they are rates, or factors; None: they are neither."""
        if not values or not all(0 <= value < math.inf for value in values):
            return None
        highest = max(values)
        if any(name in self.settings for name in LR):
            return 1.0, "rates"
        if 1 / 3 <= highest <= 3:
            return self.lr, "factors of optim.lr"
        return (1.0, "rates") if self.lr / 3 <= highest <= self.lr * 3 else None
