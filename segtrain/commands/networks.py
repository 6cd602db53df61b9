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
    from segtrain.data.store import resolved_by_source
    from segtrain.models.cost import HEADER, table  # imports torch: seconds

    data = resolved_by_source(cfg.data)
    channels, size_px = data.channels, data.image_size
    rows = table(cfg.model, channels, size_px, len(data.layout.regions))
    show_table(f"Networks, one image of {channels} x {size_px} x {size_px}", rows, HEADER)
    return 0
