"""Command lines that several commands share: a config with overrides, runs with settings that may differ."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from segtrain import __version__
from segtrain.commands.keys import KEYS_HEADER, key_lines
from segtrain.config import (
    AUGMENTATIONS,
    ENGINES,
    LOSSES,
    NETWORKS,
    OPTIMIZERS,
    POSTPROCESSING,
    SCHEDULES,
    SMP,
    SMP_PREFIX,
    Config,
    Part,
    flatten,
    load_config,
    nearest,
)
from segtrain.config.paths import is_weights
from segtrain.errors import ConfigError

CONFIG_HELP = "YAML file, or the name of a packaged config such as lgg (default: phantom, made-up patients)"
PARTS: dict[str, Mapping[str, Part]] = {
    "model.name": {**NETWORKS, f"{SMP_PREFIX}<encoder>": SMP},
    "loss": LOSSES,
    "optim.name": OPTIMIZERS,
    "optim.schedule": SCHEDULES,
    "data.augment": AUGMENTATIONS,
    "engine": ENGINES,
}
POSTPROCESSING_KEYS = tuple(f"evaluate.{key}" for key in POSTPROCESSING)
# Settings with which a trained network may be used other than those of its run.
EVALUATION_KEYS = (
    *POSTPROCESSING_KEYS,
    "evaluate.tta",
    "evaluate.batch",
    "device",
    "allocator",
    "data.root",
    "data.store",
)


class _ConfigParser(argparse.ArgumentParser):
    """Lists all keys and parts in its help; leads `--lr 1e-3`, as other programs take it, to the key."""

    def format_help(self) -> str:
        # Here, for whoever asks: the keys' meanings are read from the schema's source, a tenth of a second.
        options = argparse.ArgumentParser.format_help(self)
        return f"{options}\n{KEYS_HEADER}\n\n{key_lines()}\n\nbuilt-in parts:\n{_parts()}\n"

    def error(self, message: str) -> NoReturn:
        option = re.match(r"unrecognized arguments: --([\w.-]+)", message)
        key = nearest(option[1], [key for key, _ in flatten(asdict(Config()))]) if option else None
        super().error(f"{message}; settings are written without dashes, did you mean {key}=...?" if key else message)


def config_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """For a command that takes `--config F` and `key=value` overrides; its help lists all keys and parts."""
    parser = _ConfigParser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="F", help=CONFIG_HELP)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, for example optim.lr=1e-3")
    parser.add_argument("--version", action="version", version=f"segtrain {__version__}")
    return parser


def _parts() -> str:
    lines = []
    for key, table in PARTS.items():
        lines.append(f"  {key}")
        lines += [f"    {name:<17}{part.doc}" for name, part in table.items()]
    return "\n".join(lines)


def config_of(arguments: argparse.Namespace) -> Config:
    """The config that the command line asks for. Raises ConfigError."""
    return load_config(arguments.config, arguments.overrides)


def runs_parser(
    prog: str, description: str, examples: str, keys: Sequence[str] = EVALUATION_KEYS, checkpoint: str = "best"
) -> argparse.ArgumentParser:
    """For a command on checkpoints: `RUN [RUN...] [--checkpoint best|last|STEP] [key=value ...]`, of these keys."""
    parser = argparse.ArgumentParser(
        prog, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|key=value",
        help=f"run directories (several: their ensemble), and settings that differ from the run's: {', '.join(keys)}",
    )
    which = f"which weights (default: {checkpoint})"
    parser.add_argument("--checkpoint", default=checkpoint, metavar="best|last|STEP", help=which)
    return parser


def add_weights_config(parser: argparse.ArgumentParser) -> None:
    """`--config F` of commands that also take a file of weights in place of a run."""
    text = "of a file of weights in place of a run: the config that it was trained with (default: see below)"
    parser.add_argument("--config", type=Path, metavar="F", dest="weights_config", help=text)


def add_choice(parser: argparse.ArgumentParser, flag: str, choices: Mapping[Any, str]) -> None:
    """A flag that takes one of `choices`, the first by default; its help says what each means."""
    meanings = ". ".join(f"{name}: {text}" for name, text in choices.items()).replace("%", "%%")
    parser.add_argument(flag, choices=choices, default=next(iter(choices)), help=f"{meanings} (default: the first)")


def runs_or_weights(words: Sequence[str], weights_config: Path | None) -> tuple[list[Path], list[str]]:
    """Like `runs_and_overrides`, with files of weights in place of runs, which `weights_config` is the config of.

    Of weights alone no config is known, so any key may be given then.
    """
    runs, overrides = _split(words)
    if weights_config and not any(map(is_weights, runs)):
        raise ConfigError(f"--config {weights_config}: is for a file of weights, and none is named; leave it out")
    if runs and all(map(is_weights, runs)):
        return runs, overrides
    return _checked(runs, overrides, EVALUATION_KEYS)


def runs_and_overrides(words: Sequence[str], keys: Sequence[str] = EVALUATION_KEYS) -> tuple[list[Path], list[str]]:
    """Run directories and `key=value` of the `keys`. Raises ConfigError: no run, another key."""
    runs, overrides = _split(words)
    if alone := [run for run in runs if is_weights(run)]:
        raise ConfigError(f"{alone[0]}: is a file of weights; name the folder of its run")
    return _checked(runs, overrides, keys)


def _split(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Paths, and `key=value`."""
    overrides = [word for word in words if "=" in word and not Path(word).is_dir()]
    return [Path(word) for word in words if word not in overrides], overrides


def _checked(runs: list[Path], overrides: list[str], keys: Sequence[str]) -> tuple[list[Path], list[str]]:
    for override in overrides:
        key = override.partition("=")[0]
        if key not in keys:
            raise ConfigError(f"{key}: fixed by the run; settings that may differ here are {', '.join(keys)}")
    if not runs:
        raise ConfigError("no run is named; give a run's folder, for example runs/phantom")
    return runs, overrides
