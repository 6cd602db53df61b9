"""What an optimiser of the user's own does, tried on a toy of four parameters: it steps, resumes, follows its rate.

The gradients are those of a bowl whose lowest point is far away, so any optimiser goes down. All takes some 0.1 s.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from segtrain.config import OptimConfig, Reference, name_of
from segtrain.config.importing import explained
from segtrain.config.trial import Check
from segtrain.engines.optim_bench import STEPS, UNUSED, Bench, bench_of, way_down
from segtrain.engines.optim_state import Unsaveable, changed_settings
from segtrain.engines.zero_trial import zero_problem
from segtrain.errors import ConfigError
from segtrain.models.traps import generators

Make = Callable[[], Bench]
HALF = 25  # of the steps around a resume; an optimiser may act every few steps only
# Calls that talk to other ranks, or divide the work among them.
CALLS = [
    "all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce_scatter", "get_rank", "get_world_size",
    "barrier",
]  # fmt: skip


def try_optimizer(
    cfg: OptimConfig, zero: int | None = None, network: nn.Module | None = None
) -> tuple[str, list[Check]]:
    """The line about an optimiser of the user's own, and what its trials found.

    `zero`: the stage of ZeRO that it is to be trained with, None without DeepSpeed. `network`: tried on copies of this
    where a factory cannot do with the toy. Raises ConfigError where it cannot be made.
    """
    reference = Reference.of(name_of(cfg.name))
    make = bench_of(cfg, network)
    checks = [_try(reference, name, partial(trial, make)) for name, trial in TRIALS.items()]
    if checks[0].verdict == "fails":
        return f"{reference.short}: cannot be stepped", checks[:1]
    problem = zero_problem(make, zero)
    if problem:
        checks.append(Check("DeepSpeed", "warning" if zero is None else "fails", f"{problem}; use engine=ddp"))
    else:
        checks.append(Check("DeepSpeed", "holds", "a matrix moves as its parts do"))
    return _description(reference, make(), checks), checks


def _try(reference: Reference, name: str, trial: Callable[[], Check]) -> Check:
    """The trial's check; what the optimiser raises is a failure."""
    try:
        with explained(reference, "its step fails", "mend it there"):
            return trial()
    except ConfigError as error:
        return Check(name, "fails", str(error).removeprefix(f"{reference}: "))


def _steps(make: Make) -> Check:
    name = "step() alone"
    before = generators()
    with _watched() as calls:
        bench = make().step()
    if calls:
        return Check(
            name,
            "fails",
            f"calls torch.distributed.{calls[0]}: its state would differ between ranks; use one for a "
            "single process, as the gradients are those of all ranks already",
        )
    if generators() != before:
        return Check(name, "fails", "draws random numbers in its step: the ranks would drift apart; use one without")
    if not all(bool(p.isfinite().all()) for p in bench.parameters.values()):
        return Check(
            name, "fails", f"makes weights that are not finite at optim.lr={bench.cfg.lr:g}; set a smaller one"
        )
    if UNUSED in bench.parameters and bench.moved()[UNUSED].any():
        return Check(name, "warning", "moves a parameter that has no gradient")
    return Check(name, "holds", "needs no closure; leaves a parameter without gradient alone")


def _goes_down(make: Make) -> Check:
    bench = make().step()
    change = 0.0
    for name, moved in bench.moved().items():
        if name != UNUSED:
            change += float((0.005 * moved**2 - 0.01 * moved * way_down(bench.start[name]).double()).sum())
    if change < 0:
        return Check("goes down", "holds", f"the loss of the toy falls by {-change:.2g} in {STEPS} steps")
    reason = "moves nothing" if change == 0 else f"the loss of the toy rises by {change:.2g} in {STEPS} steps"
    return Check("goes down", "fails", f"{reason} at optim.lr={bench.cfg.lr:g}; is that its rate, and a step down?")


def _resumes(make: Make) -> Check:
    name = "resumes bitwise (L6)"
    alone = make().step(range(2 * HALF))
    broken = make().step(range(HALF))
    try:
        again = broken.resumed()
    except Unsaveable as error:
        return Check(name, "fails", str(error))
    for bench in (again, broken):
        bench.step(range(HALF, 2 * HALF))
    for key, parameter in alone.parameters.items():
        if not torch.equal(parameter, again.parameters[key]):
            return Check(
                name,
                "fails",
                f"{HALF} steps, a checkpoint and {HALF} steps differ from {2 * HALF} steps: it keeps "
                "something outside of self.state and self.param_groups",
            )
        if not torch.equal(parameter, broken.parameters[key]):
            return Check(name, "fails", "two runs from the same start differ")
    return Check(name, "holds", f"{HALF} + {HALF} steps through a checkpoint are {2 * HALF} steps")


def _copies_gradients(make: Make) -> Check:
    name = "copies what it keeps"
    if kept := make().kept_gradients():
        return Check(
            name, "fails", f"its state {kept[0]} is the gradient itself, whose memory DDP uses again at the next step; "
            "clone it"
        )  # fmt: skip
    return Check(name, "holds", "its state shares no memory with the gradients")


def _follows_its_rate(make: Make) -> Check:
    name = "follows its rate"
    whole, half, mixed = (make() for _ in range(3))
    whole.step()
    half.step(factor=0.5)
    if all(torch.equal(whole.parameters[key], half.parameters[key]) for key in whole.parameters):
        return Check(name, "warning", "moves as far at half the rate: a schedule changes nothing")
    if len(mixed.rates.own) < 2:
        return Check(name, "holds", "one group")
    last = mixed.rates.own[-1]
    mixed.rates.own[-1] = None if last is None else last / 10
    try:
        mixed.step()
    except Exception as error:  # noqa: BLE001  Prodigy raises a RuntimeError; all rates are one here anyway
        return Check(name, "warning", f"takes no groups with rates of their own ({error})")
    ours = {id(p) for p in mixed.optimizer.param_groups[-1]["params"]}
    keys = [key for key, p in mixed.parameters.items() if id(p) in ours and key != UNUSED]
    if all(torch.equal(whole.parameters[key], mixed.parameters[key]) for key in keys):
        return Check(name, "warning", "takes the rate of its first group for all groups")
    return Check(name, "holds", "a group with a rate of its own moves by it")


def _decays(make: Make) -> Check:
    name = "weight decay"
    plain = make()
    weight_decay = plain.cfg.weight_decay
    if weight_decay == 0:
        return Check(name, "not tried", "optim.weight_decay is not set")
    for group in plain.optimizer.param_groups:
        group["weight_decay"] = 0.0
    decayed = make().step()
    plain.step()
    changed = [key for key in decayed.parameters if not torch.equal(decayed.parameters[key], plain.parameters[key])]
    if not changed:
        return Check(name, "warning", f"optim.weight_decay={weight_decay:g} changes nothing")
    return Check(name, "holds", f"reaches {', '.join(changed[:4])}")


TRIALS: Mapping[str, Callable[[Make], Check]] = {
    "step() alone": _steps,
    "goes down": _goes_down,
    "resumes bitwise (L6)": _resumes,
    "copies what it keeps": _copies_gradients,
    "follows its rate": _follows_its_rate,
    "weight decay": _decays,
}


def _description(reference: Reference, bench: Bench, checks: list[Check]) -> str:
    bench.step()
    groups = bench.optimizer.param_groups
    shown = {key: value for key, value in groups[0].items() if key != "params" and not _is_idle(value)}
    state = sorted({str(key) for entries in bench.optimizer.state.values() for key in entries})
    numbers = sorted({key for changed in changed_settings(bench.optimizer, bench.settings) for key in changed})
    shown = {key: value for key, value in shown.items() if key not in numbers}
    resumes = next(check for check in checks if check.name.startswith("resumes"))
    own_rates = {rate for rate in bench.rates.own if rate not in (None, bench.cfg.lr)}
    parts = [
        f"state {', '.join(state) or 'none'}",
        *([f"in groups {', '.join(numbers)}"] if numbers else []),
        "resumes bitwise" if resumes.verdict == "holds" else "does not resume",
        f"{len(groups)} group{'s' if len(groups) > 1 else ''}"
        + (f", with rates of their own: {', '.join(f'{rate:g}' for rate in sorted(own_rates))}" if own_rates else ""),
    ]
    settings = ", ".join(f"{key}={value}" for key, value in shown.items())
    return f"{reference.short}({settings}): {'; '.join(parts)}"


def _is_idle(value: Any) -> bool:
    """Whether a setting of a group is a switch that is off, or nothing that fits into a line."""
    return value is None or value is False or not isinstance(value, int | float | str | tuple)


@contextmanager
def _watched() -> Iterator[list[str]]:
    """A context in which torch.distributed seems to be in use; the names of its functions that were called."""
    calls: list[str] = []

    def watch(name: str) -> Callable[..., NoReturn]:
        def call(*_: object, **__: object) -> NoReturn:
            calls.append(name)
            raise _TalksToRanks(name)

        return call

    there = torch.distributed
    before = {name: getattr(there, name) for name in (*CALLS, "is_initialized")}
    try:
        there.is_initialized = lambda: True
        for name in CALLS:
            setattr(there, name, watch(name))
        yield calls
    except _TalksToRanks:
        pass
    finally:
        for name, function in before.items():
            setattr(there, name, function)


class _TalksToRanks(BaseException):
    """Raised in place of a call of torch.distributed; no except clause of the optimiser's catches it."""
