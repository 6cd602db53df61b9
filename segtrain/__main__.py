"""The console command `segtrain`: `segtrain COMMAND ...` is `python -m segtrain COMMAND ...`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from segtrain import __version__
from segtrain.runtime import process
from segtrain.runtime.launcher import leave
from segtrain.runtime.terminal import show, show_text

# A module, whose function `command` is it, and a line of help. The module is imported when the command runs: segtrain
# knows jobs/ by these names alone.
COMMANDS = {
    "prepare": ("segtrain.commands.prepare", "check the data and prepare it once for all runs"),
    "train": ("segtrain.commands.train", "train a network (--nproc N, or under torchrun: -m segtrain.train)"),
    "evaluate": ("segtrain.commands.evaluate", "score a checkpoint, or an ensemble, patient by patient"),
    "postprocess": (
        "segtrain.commands.postprocess",
        "choose thresholds and smallest lesions on out-of-fold predictions",
    ),
    "predict": ("segtrain.commands.predict", "masks and pictures of a folder of patients"),
    "export": ("segtrain.commands.export", "write a trained network as one zip, with a model card"),
    "track": ("segtrain.commands.track", "send runs to wandb, mlflow or swanlab, from their files"),
    "report": ("segtrain.commands.report", "write one page about a run or an ablation: tables, verdicts, figures"),
    "suspects": ("segtrain.commands.suspects", "find masks that may be wrong, by the predictions of a k-fold ablation"),
    "check": (
        "segtrain.commands.check",
        "try a loss, network, augmentation, optimiser or source of your own before it trains",
    ),
    "doctor": ("segtrain.commands.doctor", "check this machine, and what a config needs, before the hours are spent"),
    "networks": ("segtrain.commands.networks", "list the networks: parameters, work an image, norm"),
    "augmentations": ("segtrain.commands.augmentations", "draw what augmentation does to some slices"),
    "phantoms": ("segtrain.commands.phantoms", "write made-up patients as a data set, to try a layout of files"),
    "ablate": ("jobs.ablate", "train, submit or list the runs of an ablation: variants x folds x seeds"),
    "search": ("jobs.search", "search settings by Optuna in stages, and confirm the best on other patients"),
    "submit": ("jobs.submit", "submit one training to SLURM"),
    "status": ("jobs.status", "show every run: state, job, epoch, DSC, speed, time left"),
    "watch": ("segtrain.commands.watch", "watch runs that train elsewhere: epoch, DSC, speed, time left, curves"),
    "logs": ("jobs.logs", "show the output of a run's newest start, or follow it"),
    "clean": ("jobs.clean", "remove copies of code that no job needs any more"),
    "cancel": ("jobs.cancel", "have runs save and leave, then end their jobs"),
    "offline": ("jobs.offline.__main__", "train a queue of runs on this machine, left alone"),
}
USAGE = "usage: segtrain COMMAND [--config F] [key=value ...]\n       segtrain --version\n\ncommands:\n" + "".join(
    f"  {name:<15}{text}\n" for name, (_, text) in COMMANDS.items()
)
EXAMPLE = "\nexample: segtrain prepare --config configs/lgg.yaml data.root=/data/kaggle_3m\n"


def main() -> int:
    """The exit code of the command that the arguments name."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        show_text((USAGE + EXAMPLE).removesuffix("\n"))
        return 0
    if name == "--version":
        show(f"segtrain {__version__}")
        return 0
    if name not in COMMANDS:
        show(f"segtrain: error: {name}: no such command; choose one of {', '.join(COMMANDS)}", errors=True)
        return 2
    code = run(name, rest)
    if name == "train":
        leave(code)
    return code


def run(name: str, argv: Sequence[str]) -> int:
    """The exit code of a command, whose module is imported after the checks that come before every command."""

    def command(argv: Sequence[str]) -> int:
        return int(import_module(COMMANDS[name][0]).command(argv))

    return process.main(command, argv)


if __name__ == "__main__":
    sys.exit(main())
