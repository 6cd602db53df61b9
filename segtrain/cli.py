"""What all commands share: how they are called, what they say, how they end."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain import __version__
from segtrain.config import Config, load_config, to_yaml
from segtrain.errors import Diverged, SegtrainError

log = logging.getLogger("segtrain")


def parse(prog: str, description: str, examples: str, flags: dict[str, str], argv: Sequence[str]) -> argparse.Namespace:
    """Arguments of a command that takes `--config F`, boolean `flags` (with their help) and `key=value` overrides."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}\nkeys and their defaults:\n{_indent(to_yaml(Config()))}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="F", help="YAML file (default: the phantom run)")
    for flag, text in flags.items():
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, for example optim.lr=1e-3")
    parser.add_argument("--version", action="version", version=f"segtrain {__version__}")
    return parser.parse_args(list(argv))


def config_of(arguments: argparse.Namespace) -> Config:
    """The config that the command line asks for. Raises ConfigError."""
    return load_config(arguments.config, arguments.overrides)


def start_logging(file: Path | None = None, rank: int = 0) -> None:
    """Log to standard error, and to `file` when given; ranks but 0 say warnings only, under their number."""
    prefix = "" if rank == 0 else f"[rank {rank}] "
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    if file is not None:
        handlers.append(logging.FileHandler(file))
        handlers[1].setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%Y-%m-%d %H:%M:%S"))
    for old in log.handlers:
        old.close()
    log.handlers = handlers
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False


def run_command(
    command: Callable[[Sequence[str]], int], argv: Sequence[str], rank: int = 0, local_rank: int = 0
) -> int:
    """The exit code of a command; a user's error becomes one line on standard error, a bug keeps its traceback.

    What is wrong before the ranks have met is wrong on all of them: the first of a node says it, the others give it the
    time to.
    """
    try:
        return command(argv)
    except SegtrainError as error:
        if rank == 0 if isinstance(error, Diverged) else local_rank == 0 or error.this_rank_only:
            where = f"[rank {rank}] " if error.this_rank_only else ""
            print(f"segtrain: error: {where}{error}", file=sys.stderr, flush=True)
        else:
            time.sleep(5)
        return error.exit_code


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
