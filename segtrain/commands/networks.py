"""The command `segtrain networks`: what each network costs."""

from collections.abc import Sequence

from segtrain.commands.arguments import config_of, config_parser
from segtrain.runtime.terminal import show_table

EXAMPLES = """\
  segtrain networks
  segtrain networks data.image_size=128 data.neighbours=1
"""


def command(argv: Sequence[str]) -> int:
    """Print a table of all networks, at the width and for the images that the config gives."""
    parser = config_parser("segtrain networks", "List the networks and what they cost.", EXAMPLES)
    cfg = config_of(parser.parse_intermixed_args(argv))
    from segtrain.models.cost import HEADER, table  # imports torch: seconds

    channels, size_px = cfg.data.channels, cfg.data.image_size
    rows = table(cfg.model, channels, size_px)
    show_table(f"Networks, one image of {channels} x {size_px} x {size_px}", rows, HEADER)
    return 0
