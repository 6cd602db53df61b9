"""The parts of the user's own of a run, as their rooms try them: a line about each, and what the trials found."""

from segtrain.config import Config
from segtrain.config.kinds import Kind
from segtrain.config.trial import Check


def tried(cfg: Config, kind: Kind) -> tuple[str, list[Check]]:
    """The line about the part of that kind, and all its trials. Raises ConfigError where it cannot even be made."""
    raise NotImplementedError
