"""Keys of a split or an engine that is not chosen: set in vain. Imports no torch."""

from collections.abc import Iterator
from dataclasses import asdict

from segtrain.config.schema import Config, DataConfig, DeepSpeedConfig
from segtrain.errors import ConfigError

# Keys of data that choose patients, by the values of data.split that read them. Not data.folds: a base of an ablation
# has it for the ablation's folds.
SPLIT_READERS = {"fold": ("kfold", "file"), "split_file": ("file",)}


def unread_by_split(data: DataConfig) -> Iterator[tuple[bool, str]]:
    """Whether a key is set that `data.split` does not read, and the message for that case."""
    for key, readers in SPLIT_READERS.items():
        value = getattr(data, key)
        yield (
            value != getattr(DataConfig, key) and data.split not in readers,
            f"data.{key}={value} means nothing to data.split={data.split}; leave it out, of a base too, or set "
            f"data.split={' or '.join(readers)}",
        )


def refuse_without_engine(cfg: Config) -> None:
    """Raises ConfigError for settings of DeepSpeed where no engine is named, which is then another.

    Where one is named they may stand: for a change of the engine they are left.
    """
    for key, value in asdict(cfg.deepspeed).items() if cfg.engine != "deepspeed" else ():
        if value != getattr(DeepSpeedConfig(), key):
            shown = str(value).lower() if isinstance(value, bool) else value
            raise ConfigError(
                f"deepspeed.{key}={shown} means nothing to engine={cfg.engine}, the default; set engine=deepspeed, "
                f"name engine={cfg.engine} to let it stand, or leave it out"
            )
