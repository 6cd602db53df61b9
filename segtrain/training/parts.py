"""The parts of the user's own: a line about each at the start of a training, all trials of one for `segtrain check`."""

from collections.abc import Iterator

from segtrain.config import Config, Reference, loss_terms, name_of
from segtrain.config.kinds import Kind
from segtrain.config.trial import Check
from segtrain.data.augment.trial import tried as try_augmentation
from segtrain.data.sources.own_trial import checks_of as try_source
from segtrain.data.store import resolved_by_source
from segtrain.engines.average import reached_at
from segtrain.engines.optim_trial import try_optimizer
from segtrain.engines.precision import described_precision
from segtrain.engines.schedules import make_schedule
from segtrain.errors import ConfigError
from segtrain.losses.loss import own_losses
from segtrain.losses.trial import check_loss
from segtrain.models.freeze import described_freeze
from segtrain.models.trial import checks_of
from segtrain.training.start import Start

STEPS_PER_EPOCH = 100  # of the training that `segtrain check` makes up for a schedule


def described(start: Start) -> Iterator[str]:
    """A line about the precision, about each part of the user's own, and about each warning.

    For example `loss: losses.py:my_loss(): ...`.
    """
    cfg = start.cfg
    yield from start.decided
    if line := described_precision(cfg.precision, start.world.device):
        yield line
    several = ", once for each region" if len(cfg.data.layout.regions) > 1 else ""
    for loss in own_losses(start.loss):
        yield f"loss: {loss.description}{several}"
        yield from (f"loss: {loss.function} {remark}" for remark in loss.remarks)
    if description := getattr(start.engine.network, "description", ""):
        yield f"network: {description}"
    if patterns := cfg.model.freeze:
        yield f"network: {described_freeze(start.engine.network, patterns)}"
    if start.augmentation:
        yield f"augmentation: {start.augmentation.description}"
    if Reference.parse(name_of(cfg.optim.name)):
        zero = cfg.deepspeed.zero if cfg.engine == "deepspeed" else None
        yield f"optimiser: {try_optimizer(cfg.optim, zero, start.engine.network)[0]}"
    if cfg.optim.ema:
        yield from average_line(cfg.optim.ema, start.total_steps)
    if start.schedule.description:
        yield f"schedule: {start.schedule.description}"
        yield from (f"schedule: {check.message}" for check in start.schedule.checks if check.verdict == "warning")


def average_line(decay: float, steps: int) -> Iterator[str]:
    """What becomes of `optim.ema` in so many steps, where it is reached late or never."""
    reached = reached_at(decay)
    if reached > steps:
        yield (
            f"optim.ema={decay} is reached at step {reached}, but the training ends at step {steps}, with a decay of "
            f"{(1 + steps) / (10 + steps):.4f}: the decay rises as (1 + step) / (10 + step)"
        )
    elif 2 * reached > steps:
        yield f"optim.ema={decay} is reached at step {reached} of {steps}; until then it is (1 + step) / (10 + step)"


def tried(cfg: Config, kind: Kind) -> tuple[str, list[Check]]:
    """The line about the part of that kind that a config chooses, and all its trials.

    Raises ConfigError where the part cannot even be made.
    """
    if kind == "loss":
        [term] = loss_terms(cfg.loss)
        return check_loss(Reference.of(term.part), term.options)
    if kind in ("model", "augment"):
        data = resolved_by_source(cfg.data)
        if kind == "model":
            return checks_of(cfg.model, data.channels, data.image_size, len(data.layout.regions))
        trials = try_augmentation(data.augment, cfg.seed, data.channels, data.image_size, data.layout)
        return trials.description, list(trials.checks)
    if kind == "source":
        return try_source(cfg.data)
    if kind == "optim":
        return try_optimizer(cfg.optim, cfg.deepspeed.zero if cfg.engine == "deepspeed" else None)
    try:
        schedule = make_schedule(cfg.optim, cfg.train.epochs * STEPS_PER_EPOCH, STEPS_PER_EPOCH)
    except ConfigError as error:
        return name_of(cfg.optim.schedule), [Check("a table of rates", "fails", str(error))]
    return schedule.description, [Check("a table of rates", "holds"), *schedule.checks]
