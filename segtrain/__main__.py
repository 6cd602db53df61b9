"""The console command `segtrain`: `segtrain COMMAND ...` is `python -m segtrain COMMAND ...`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from segtrain import __version__
from segtrain.runtime.launcher import leave
from segtrain.runtime.process import run_command

# Each is `command` in a module of its own, which is imported when it runs.
COMMANDS = {
    "prepare": "check the data and prepare it once for all runs",
    "train": "train a network (under torchrun: -m segtrain.train)",
    "ablate": "train or list the runs of an ablation: variants x folds x seeds",
    "evaluate": "score a checkpoint, or an ensemble, patient by patient",
    "predict": "masks and pictures of a folder of patients",
    "report": "write one page about a run or an ablation: tables, verdicts, figures",
    "doctor": "check this machine, and what a config needs, before the hours are spent",
    "networks": "list the networks: parameters, work an image, norm",
    "augmentations": "draw what augmentation does to some slices",
}
USAGE = "usage: segtrain COMMAND [--config F] [key=value ...]\n       segtrain --version\n\ncommands:\n" + "".join(
    f"  {name:<15}{text}\n" for name, text in COMMANDS.items()
)
EXAMPLE = "\nexample: segtrain prepare --config configs/lgg.yaml data.root=/data/kaggle_3m\n"


def main() -> int:
    """The exit code of the command that is asked for."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE + EXAMPLE, end="")
        return 0
    if name == "--version":
        print(f"segtrain {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"segtrain: error: {name}: no such command; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    code = run(name, rest)
    if name == "train":
        leave(code)
    return code


def run(name: str, argv: Sequence[str]) -> int:
    """The exit code of a command, whose module is imported after the checks that come before every command."""

    def command(argv: Sequence[str]) -> int:
        return int(import_module(f"segtrain.commands.{name}").command(argv))

    return run_command(command, argv)


if __name__ == "__main__":
    sys.exit(main())
