"""The learning rate as a function of the step: a linear warm-up, then the schedule that `optim.schedule` names."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from segtrain.config import SCHEDULES, OptimConfig, Reference, name_of, options_of, part_of
from segtrain.config.trial import Check
from segtrain.engines.own_schedule import make_table
from segtrain.errors import ConfigError


@dataclass(frozen=True)
class Moment:
    """A step, counted from the warm-up's end, and the steps that there are after the warm-up."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def progress(self) -> float:
        """0 to 1."""
        return min(1.0, self.step / max(1, self.total_steps))


def constant(moment: Moment, cfg: OptimConfig) -> float:
    """1 throughout."""
    return 1.0


def cosine(moment: Moment, cfg: OptimConfig, *, final_lr_ratio: float | None = None) -> float:
    """Half a cosine from 1 to `final_lr_ratio`. I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, without restarts."""
    end = cfg.final_lr_ratio if final_lr_ratio is None else final_lr_ratio
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * moment.progress))


def polynomial(
    moment: Moment, cfg: OptimConfig, *, power: float | None = None, final_lr_ratio: float | None = None
) -> float:
    """(1 - progress)^power from 1 to `final_lr_ratio`; nnU-Net's power is 0.9 (F. Isensee et al., 2021)."""
    power = cfg.power if power is None else power
    end = cfg.final_lr_ratio if final_lr_ratio is None else final_lr_ratio
    return end + (1 - end) * math.pow(1 - moment.progress, power)


def step(moment: Moment, cfg: OptimConfig, *, step_size: int = 30, gamma: float = 0.1, unit: str = "epoch") -> float:
    """`gamma` to the power of the times that `step_size` epochs, or steps, have passed."""
    passed = moment.step // moment.steps_per_epoch if unit == "epoch" else moment.step
    return float(gamma ** (passed // step_size))


def one_cycle(
    moment: Moment,
    cfg: OptimConfig,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 10000.0,
    anneal_strategy: str = "cos",
) -> float:
    """Up from 1 / `div_factor` to 1 within `pct_start` of the steps, then down to `final_div_factor` times less than
    at first. L. Smith, N. Topin, 2019; the same values as torch's OneCycleLR.
    """
    low, lowest = 1 / div_factor, 1 / div_factor / final_div_factor
    top, last = pct_start * moment.total_steps - 1, moment.total_steps - 1
    if moment.step <= top:
        start, end, part = low, 1.0, moment.step / max(top, 1e-9)
    else:
        start, end, part = 1.0, lowest, min(1.0, (moment.step - top) / max(last - top, 1e-9))
    if anneal_strategy == "linear":
        return start + (end - start) * part
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a step (from 0). `checks`: what is strange about a schedule of the user's own."""

    lr: float
    warmup_steps: int
    after_warmup: Callable[[int], float]  # the rate of a step, counted from the warm-up's end
    description: str = ""
    checks: tuple[Check, ...] = ()

    def __call__(self, step: int) -> float:
        """The rate: linear over the warm-up, then the schedule's."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        return self.after_warmup(step - self.warmup_steps)


def make_schedule(cfg: OptimConfig, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The schedule that `optim.schedule` names, over a run of `total_steps`.

    One of the user's own is computed here for all steps, so it is a function of the step like the others. Raises
    ConfigError: an option out of range, an own schedule that needs a metric or gives no rates.
    """
    name, options = name_of(cfg.schedule), options_of(cfg.schedule)
    steps = max(0, total_steps - cfg.warmup_steps)
    if reference := Reference.parse(name):
        table = make_table(reference, options, cfg.lr, steps, steps_per_epoch)
        return Schedule(cfg.lr, cfg.warmup_steps, table, table.description, table.checks)
    factor: Callable[[Moment, OptimConfig], float] = part_of(cfg.schedule, SCHEDULES).load(**options)

    def rate(step: int) -> float:
        return cfg.lr * factor(Moment(step, steps, steps_per_epoch), cfg)

    for key, choices in (("unit", ("epoch", "step")), ("anneal_strategy", ("cos", "linear"))):
        if key in options and options[key] not in choices:
            raise ConfigError(f"optim.schedule.{key}={options[key]!r}: choose {' or '.join(choices)}")
    try:
        rates = [rate(step) for step in (0, steps // 2, max(0, steps - 1))]
    except (ArithmeticError, ValueError) as error:
        raise ConfigError(f"optim.schedule={name}: fails with {options} ({error}); change optim.schedule") from error
    if not all(isinstance(value, float) and 0 <= value < math.inf for value in rates):
        raise ConfigError(f"optim.schedule={name}: gives a rate of {min(rates)} with {options}; change optim.schedule")
    return Schedule(cfg.lr, cfg.warmup_steps, rate)
