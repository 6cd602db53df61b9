"""The data that the runs were trained on, as a table: what their configs say beyond the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any

from segtrain.config import DataConfig
from segtrain.report.collect import Collected
from segtrain.report.tables import Table, word
from segtrain.report.texts import Say

KEYS = (
    "contrasts", "missing", "regions", "ignore", "remap", "soft_above", "rater", "protocol", "spacing_mm", "resample",
    "groups",
)  # fmt: skip


def data_table(runs: Sequence[Collected], say: Say) -> Table | None:
    """A row per variant, of its first run; None where all have the defaults."""
    configs: dict[str, DataConfig] = {}
    for run in runs:
        if run.config:
            configs.setdefault(run.variant, run.config.data)
    default = DataConfig()
    keys = [key for key in KEYS if any(getattr(cfg, key) != getattr(default, key) for cfg in configs.values())]
    if not keys:
        return None
    lines = [
        [word(variant), word(_text(cfg.source)), *(word(_text(getattr(cfg, key))) for key in keys)]
        for variant, cfg in configs.items()
    ]
    return Table("data", [say("variant"), say("data_source"), *(say(f"data_{key}") for key in keys)], lines)


def _text(value: Any) -> str:
    """A setting in words: `whole: 1 2 3; core: 1 3`."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(below)}" for key, below in value.items())
    if isinstance(value, tuple):
        joint = ", " if any(isinstance(one, str) for one in value) else " "
        return joint.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
