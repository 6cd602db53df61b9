"""The console command `segtrain`: `segtrain COMMAND ...` is `python -m segtrain COMMAND ...`."""

import sys
from importlib import import_module

from segtrain.runtime.launcher import leave
from segtrain.runtime.process import run_command

# Each is `command` in a module of its own, which is imported when it is asked for.
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
USAGE = "usage: segtrain COMMAND [--config F] [key=value ...]\n\ncommands:\n" + "".join(
    f"  {name:<15}{text}\n" for name, text in COMMANDS.items()
)
EXAMPLE = "\nexample: segtrain prepare --config configs/lgg.yaml data.root=/data/kaggle_3m\n"


def main() -> int:
    """The exit code of the command that is asked for."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE + EXAMPLE, end="")
        return 0
    if name not in COMMANDS:
        print(f"segtrain: error: {name}: no such command; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = import_module(f"segtrain.commands.{name}")
    code = run_command(module.command, rest)
    if name == "train":
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
