"""The command `segtrain augmentations`: pictures of each effect of augmentation, and of an own one."""

from collections.abc import Sequence
from pathlib import Path

from segtrain.commands.arguments import config_of, config_parser
from segtrain.data.prepare import ensure_store
from segtrain.runtime.process import start_logging

EXAMPLES = """\
  segtrain augmentations --out augmentations
  segtrain augmentations --config configs/lgg.yaml data.root=/data/kaggle_3m --out augmentations
  segtrain augmentations data.augment=configs/ablation/own_parts.py:fog data.augment.density=0.3 --out augmentations
"""


def command(argv: Sequence[str]) -> int:
    """Write the pictures, of the config's data."""
    description = (
        "Draw each effect of augment=strong, copy-paste, mixup and an augmentation of your own on some slices."
    )
    parser = config_parser("segtrain augmentations", description, EXAMPLES)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the pictures")
    arguments = parser.parse_intermixed_args(argv)
    start_logging()
    cfg = config_of(arguments)
    store = ensure_store(cfg.data)
    from segtrain.evaluation.gallery import write_gallery  # imports torch: seconds

    write_gallery(store, cfg.data, cfg.seed, arguments.out)
    return 0
