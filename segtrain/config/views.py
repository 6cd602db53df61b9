"""Flips at test time, and those that an augmentation shows the network in training. Imports no torch.

A network may predict worse on a slice that is flipped as it never saw one. How much depends on the network: of five
small ones (64 px, 8 features, trained with left-right flips; 40 LGG patients out of fold) left-right gained 0.009 DSC
(95% t interval 0.002 to 0.017), up-down 0.008 (0.001 to 0.015), both with their combination 0.012 (0.000 to 0.024).
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from segtrain.config.choice import Choice, name_of, options_of
from segtrain.errors import ConfigError

if TYPE_CHECKING:
    from segtrain.config.schema import Config, TtaName

TRAINED = "trained"
# The flips of an augmentation's samples, each with the option that is its chance; none of them is 0 by default.
FLIPS: dict[str, dict[str, str]] = {
    "none": {},
    "reference": {"left_right": "flip_chance"},
    "strong": {"left_right": "flip_left_right_chance", "up_down": "flip_up_down_chance"},
}
# The flips of the views of each `evaluate.tta`.
FLIPS_OF_VIEWS: dict["TtaName", frozenset[str]] = {
    "none": frozenset(),
    "left_right": frozenset({"left_right"}),
    "up_down": frozenset({"up_down"}),
    "flips": frozenset({"left_right", "up_down"}),
    "all": frozenset({"left_right", "up_down"}),
}


def trained_flips(augment: Choice) -> frozenset[str] | None:
    """The flips that an augmentation shows; None for one of the user's own, which is not known."""
    chances = FLIPS.get(name_of(augment))
    if chances is None:
        return None
    options = options_of(augment)
    return frozenset(flip for flip, chance in chances.items() if options.get(chance, 1) > 0)


def with_trained_views(cfg: "Config") -> "Config":
    """The config with the views that `evaluate.tta=trained` stands for.

    Raises ConfigError where the augmentation is the user's own.
    """
    if cfg.evaluate.tta != TRAINED:
        return cfg
    flips = trained_flips(cfg.data.augment)
    if flips is None:
        raise ConfigError(
            f"evaluate.tta={TRAINED}: the flips of data.augment={name_of(cfg.data.augment)} are not known; set "
            "evaluate.tta to left_right, up_down, flips or none"
        )
    tta = next(name for name, of_views in FLIPS_OF_VIEWS.items() if of_views == flips)
    return replace(cfg, evaluate=replace(cfg.evaluate, tta=tta))


def untrained_views(cfg: "Config") -> str | None:
    """A warning where views at test time are flips that training did not show; None where there are none."""
    trained = trained_flips(cfg.data.augment)
    if trained is None or cfg.evaluate.tta == TRAINED:
        return None
    strange = FLIPS_OF_VIEWS[cfg.evaluate.tta] - trained
    if not strange:
        return None
    names = " and ".join(flip.replace("_", "-") for flip in sorted(strange))
    return (
        f"evaluate.tta={cfg.evaluate.tta} flips slices {names}, which data.augment={name_of(cfg.data.augment)} did not "
        f"show the network, and which may cost DSC; evaluate.tta={TRAINED} takes the flips of the training"
    )
