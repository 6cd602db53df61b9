"""The arguments of a schedule of the user's own, by the names in its signature: length, `optim.lr`, options."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from segtrain.config import Reference, nearest
from segtrain.config.importing import load
from segtrain.errors import ConfigError

Unit = Literal["step", "epoch"]
ABSENT = inspect.Parameter.empty
VARIED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
OPTIMIZER = ("optimizer", "optim", "opt")
PROGRESS = ("progress", "fraction", "frac", "pct")
STEP = ("step", "current_step", "cur_step", "global_step", "step_num", "iteration", "it", "iter", "cur_iter")
EPOCH = ("epoch", "current_epoch", "cur_epoch")
EPOCHS = ("total_epochs", "max_epochs", "max_epoch", "num_epochs", "n_epochs", "epochs")
STEPS = (
    "total_steps", "max_steps", "num_steps", "n_steps", "num_training_steps", "total", "total_iters", "total_iter",
    "max_iters", "max_iter", "T_max", "t_max", "t_initial",
)  # fmt: skip
LR = ("initial_lr", "base_lr", "max_lr", "peak_lr", "lr", "learning_rate")
# Names in a scheduler's signature that tell what it counts. torch's own (step_size, T_max, total_iters) do not tell.
COUNTS_STEPS = (
    "total_steps", "max_steps", "num_steps", "n_steps", "num_training_steps", "num_warmup_steps", "warmup_steps",
    "max_iter", "max_iters", "steps_per_epoch",
)  # fmt: skip
COUNTS_EPOCHS = (*EPOCHS, "total_epoch", "warmup_epochs", "warmup_epoch")


class Arguments:
    """A schedule's function or class, and what it is called with."""

    def __init__(
        self, reference: Reference, options: Mapping[str, Any], lr: float, total_steps: int, steps_per_epoch: int
    ) -> None:
        self.reference = reference
        self.lr, self.total_steps, self.steps_per_epoch = lr, total_steps, steps_per_epoch
        self.function: Any = load(reference)
        if not callable(self.function):
            self.refuse(f"is a {type(self.function).__name__}; name a class or a function")
        self.parameters = parameters_of(self.function)
        self.declared: Unit | None = None
        self.options = dict(options)
        if "unit" not in self.parameters:
            self.declared = self.options.pop("unit", None)
        if self.declared not in (None, "step", "epoch"):
            raise ConfigError(f"optim.schedule.unit={self.declared!r}: choose step or epoch")
        self._refuse_unknown()
        self.unit: Unit = self.declared or "step"
        self.settings: dict[str, Any] = dict(self.options)

    @property
    def length(self) -> int:
        """Steps or epochs of the run after the warm-up."""
        return self.total_steps if self.unit == "step" else self.epochs

    @property
    def epochs(self) -> int:
        """Epochs of the run after the warm-up, the last perhaps shorter."""
        return -(-self.total_steps // self.steps_per_epoch)

    def refuse(self, reason: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"optim.schedule={self.reference}: {reason}")

    def unit_of_names(self) -> Unit | None:
        """The unit that the names in the signature tell; OneCycleLR's steps_per_epoch is for counting steps."""
        if any(name in self.parameters for name in COUNTS_STEPS):
            return "step"
        return "epoch" if any(name in self.parameters for name in COUNTS_EPOCHS) else None

    def fill(self, but: str | None = None) -> bool:
        """Give the parameters that mean the run's length and `optim.lr` their values; whether the length was one.

        `but`: the parameter that each call gives. Raises ConfigError where another one is needed.
        """
        defaults = {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.kind not in VARIED and name not in (but, *OPTIMIZER, *self.settings)
        }
        lengths = [name for name in (*STEPS, *EPOCHS) if defaults.get(name, 0) in (ABSENT, None)]
        fills = bool(lengths) and not any(name in self.settings for name in (*EPOCHS, *STEPS))
        if fills:
            self.settings[lengths[0]] = self.epochs if lengths[0] in EPOCHS else self.length
        rates = [name for name in LR if defaults.get(name) is ABSENT]
        if rates and not any(name in self.settings for name in LR):
            self.settings[rates[0]] = self.lr
        if defaults.get("steps_per_epoch") is ABSENT:
            self.settings["steps_per_epoch"] = self.steps_per_epoch
        missing = [name for name, default in defaults.items() if default is ABSENT and name not in self.settings]
        if missing:
            self.refuse(
                f"needs {missing[0]}; set optim.schedule.{missing[0]}, or write a function f(step, total_steps)"
            )
        return fills

    def _refuse_unknown(self) -> None:
        if any(p.kind == p.VAR_KEYWORD for p in self.parameters.values()):
            return
        for name in self.options:
            if name not in self.parameters:
                near = nearest(name, list(self.parameters))
                hint = f" (did you mean {near}?)" if near else ""
                self.refuse(f"has no option {name}{hint}; it has {', '.join(list(self.parameters)[1:]) or 'none'}")


def parameters_of(function: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or of a class's constructor without self, by name."""
    return dict(inspect.signature(function).parameters)
