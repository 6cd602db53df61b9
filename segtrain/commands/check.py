"""The command `segtrain check`: the laws that apply, tried on a part of the user's own before it trains."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.text import Text

from segtrain.config import PART, Reference, load_config
from segtrain.config.importing import load
from segtrain.config.kinds import KEY_OF, Kind, kind_of
from segtrain.config.trial import Verdict
from segtrain.errors import EXIT_FINISHED, EXIT_USER_ERROR, ConfigError
from segtrain.runtime.process import start_logging
from segtrain.runtime.terminal import show_table, show_text

EXAMPLES = """\
examples:
  segtrain check configs/ablation/own_parts.py:power_loss
  segtrain check configs/ablation/own_parts.py:power_loss power=2 --as loss
  segtrain check configs/ablation/own_parts.py:DropoutUNet --config configs/lgg.yaml data.root=/data data.image_size=128
  segtrain check monai.losses:DiceLoss sigmoid=true
  segtrain check configs/ablation/own_parts.py:Archives data.root=/data/mine
"""
COLOURS: dict[Verdict, str] = {"holds": "green", "fails": "red", "warning": "yellow", "not tried": "dim"}


def command(argv: Sequence[str]) -> int:
    """Try the part and print what was found; code 2 where a law does not hold."""
    arguments = _parser().parse_intermixed_args(list(argv))
    start_logging()
    reference = Reference.parse(arguments.part)
    if reference is None:
        raise ConfigError(f"{arguments.part}: names no part; write FILE.py:NAME or package.module:NAME")
    kind = arguments.kind or kind_of(load(reference))
    if kind is None:
        raise ConfigError(f"{reference}: its kind cannot be told; add --as {'|'.join(get_args(Kind))}")
    cfg = load_config(arguments.config, overrides_of(arguments.part, arguments.settings, kind))
    from segtrain.training.parts import tried  # imports torch: seconds

    description, checks = tried(cfg, kind)
    show_text(description)
    rows = [(check.name, Text(check.verdict, COLOURS[check.verdict]), check.message) for check in checks]
    show_table(f"{reference} as {KEY_OF[kind]}", rows, ("law or trap", "", "what was found"))
    return EXIT_USER_ERROR if any(check.verdict == "fails" for check in checks) else EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "segtrain check",
        description=(
            "Try a loss, network, augmentation, optimiser or schedule of your own, which is run on made-up data, or a "
            "source of patients, of which it reads three."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("part", metavar="PART", help="FILE.py:NAME or package.module:NAME")
    add("settings", nargs="*", metavar="option=value|key=value", help="options of the part, or keys of the config")
    add("--as", dest="kind", choices=get_args(Kind), help="its kind (default: told from its class and parameters)")
    add("--config", type=Path, metavar="F", help="the config that it is to train with (default: phantom)")
    return parser


def overrides_of(part: str, settings: Sequence[str], kind: Kind) -> list[str]:
    """Overrides that choose the part; a setting that is no key of the config is an option of the part."""
    key = KEY_OF[kind]
    sections = {"data", "model", "optim", "train", "evaluate", "loss", "deepspeed"}
    single = {"seed", "precision", "engine", "device"}
    overrides = [f"{key}={{{PART}: {part!r}}}"]
    for setting in settings:
        name = setting.partition("=")[0]
        is_key = name.partition(".")[0] in sections if "." in name else name in single
        overrides.append(setting if is_key else f"{key}.{setting}")
    return overrides
