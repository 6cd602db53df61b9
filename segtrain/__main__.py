"""The console command `segtrain`: `segtrain COMMAND ...` is `python -m segtrain COMMAND ...`."""

import sys
from collections.abc import Callable, Sequence

from segtrain import ablate, networks, predict, scores, train
from segtrain.cli import config_of, parse, run_command, start_logging
from segtrain.data.prepare import ensure_store, summary
from segtrain.display import show_table
from segtrain.doctor import command as doctor
from segtrain.launch import leave
from segtrain.report import command as report

PREPARE_EXAMPLES = """\
  segtrain prepare --config configs/lgg.yaml data.root=/data/kaggle_3m
  segtrain prepare data.image_size=128
"""
AUGMENTATIONS_EXAMPLES = """\
  segtrain augmentations --out augmentations
  segtrain augmentations --config configs/lgg.yaml data.root=/data/kaggle_3m --out augmentations
"""


def prepare(argv: Sequence[str]) -> int:
    """Check the source, build the store, print what it holds."""
    arguments = parse(
        "segtrain prepare", "Check the data and prepare it once for all runs.", PREPARE_EXAMPLES, {}, argv
    )
    start_logging()
    show_table("Prepared data", summary(ensure_store(config_of(arguments).data)))
    return 0


def augmentations(argv: Sequence[str]) -> int:
    """Draw what augmentation does to the data."""
    arguments = parse(
        "segtrain augmentations", "Draw each effect of augment=strong, copy-paste and mixup on some slices.",
        AUGMENTATIONS_EXAMPLES, {}, argv, folder="where the pictures go",
    )  # fmt: skip
    start_logging()
    cfg = config_of(arguments)
    store = ensure_store(cfg.data)
    from segtrain.gallery import write_gallery  # imports torch: seconds

    write_gallery(store, cfg.seed, arguments.out)
    return 0


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "prepare": (prepare, "check the data and prepare it once for all runs"),
    "augmentations": (augmentations, "draw what augmentation does to some slices"),
    "train": (train.command, "train a network (under torchrun: -m segtrain.train)"),
    "ablate": (ablate.command, "train or list the runs of an ablation: variants x folds x seeds"),
    "evaluate": (scores.command, "score a checkpoint, or an ensemble, patient by patient"),
    "predict": (predict.command, "masks and pictures of a folder of patients"),
    "report": (report.command, "write one page about a run or an ablation: tables, verdicts, figures"),
    "doctor": (doctor.command, "check this machine, and what a config needs, before the hours are spent"),
    "networks": (networks.command, "list the networks: parameters, work an image, norm"),
}

USAGE = "usage: segtrain COMMAND [--config F] [key=value ...]\n\ncommands:\n" + "".join(
    f"  {name:<15}{text}\n" for name, (_, text) in COMMANDS.items()
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
    code = run_command(COMMANDS[name][0], rest)
    if name == "train":
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
