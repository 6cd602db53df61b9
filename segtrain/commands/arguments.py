"""What all commands share: how they are called, what they say, how they end."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtrain import __version__
from segtrain.config import Config, load_config, to_yaml
from segtrain.errors import ConfigError

# What a trained network may be asked to do otherwise than when its run scored it.
EVALUATION_KEYS = (
    "evaluate.threshold", "evaluate.tta", "evaluate.largest_component", "evaluate.min_component_voxels",
    "evaluate.batch", "device", "allocator", "data.root", "data.store",
)  # fmt: skip


def parse(
    prog: str, description: str, examples: str, flags: dict[str, str], argv: Sequence[str], folder: str | None = None,
    options: Mapping[str, tuple[type, str, str]] | None = None,
) -> argparse.Namespace:  # fmt: skip
    """Arguments of a command that takes `--config F`, boolean `flags` (with their help) and `key=value` overrides.

    With `folder`, the help of `--out DIR`, it takes this too, and cannot do without it. `options` have a value: its
    type, its name, their help.
    """
    keys = "".join(f"  {line}\n" for line in to_yaml(Config()).splitlines())
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}\nall keys (a bare command takes configs/phantom.yaml):\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="F", help="YAML file (default: the phantom run)")
    for flag, text in flags.items():
        parser.add_argument(flag, action="store_true", help=text)
    for option, (kind, name, text) in (options or {}).items():
        parser.add_argument(option, type=kind, metavar=name, help=text)
    if folder is not None:
        parser.add_argument("--out", type=Path, metavar="DIR", required=True, help=folder)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, for example optim.lr=1e-3")
    parser.add_argument("--version", action="version", version=f"segtrain {__version__}")
    return parser.parse_intermixed_args(list(argv))


def config_of(arguments: argparse.Namespace) -> Config:
    """The config that the command line asks for. Raises ConfigError."""
    return load_config(arguments.config, arguments.overrides)


def runs_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """For a command on checkpoints: `RUN [RUN...] [--checkpoint best|last|STEP] [key=value ...]`."""
    parser = argparse.ArgumentParser(
        prog, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="RUN|key=value", help="run directories (several: their ensemble), "
                        "and settings that differ from the run's: " + ", ".join(EVALUATION_KEYS))  # fmt: skip
    parser.add_argument("--checkpoint", default="best", metavar="best|last|STEP", help="which weights (default: best)")
    return parser


def add_choice(parser: argparse.ArgumentParser, flag: str, choices: Mapping[Any, str]) -> None:
    """A flag that takes one of `choices`, the first by default; its help says what each means."""
    meanings = ". ".join(f"{name}: {text}" for name, text in choices.items()).replace("%", "%%")
    parser.add_argument(flag, choices=choices, default=next(iter(choices)), help=f"{meanings} (default: the first)")


def runs_and_overrides(words: Sequence[str], keys: Sequence[str] = EVALUATION_KEYS) -> tuple[list[Path], list[str]]:
    """Run directories and `key=value` of the `keys`. Raises ConfigError: no run, another key."""
    overrides = [word for word in words if "=" in word and not Path(word).is_dir()]
    runs = [Path(word) for word in words if word not in overrides]
    for override in overrides:
        key = override.partition("=")[0]
        if key not in keys:
            raise ConfigError(f"{key}: the run decided it; what may differ here is {', '.join(keys)}")
    if not runs:
        raise ConfigError("no run is named; give the folder of one, for example runs/phantom")
    return runs, overrides
