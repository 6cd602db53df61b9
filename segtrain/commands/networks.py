"""The command `segtrain networks`: what each network costs, before any hour is spent on it."""

import sys
from collections.abc import Sequence

from segtrain.commands.arguments import config_of, parse
from segtrain.runtime.terminal import show_table

EXAMPLES = """\
  segtrain networks
  segtrain networks data.image_size=128 data.neighbours=1
  segtrain networks model.features=16 --markdown
"""


def command(argv: Sequence[str]) -> int:
    """Print a table of all networks, at the width and for the images that the config says."""
    flags = {"--markdown": "as a Markdown table"}
    arguments = parse("segtrain networks", "List the networks and what they cost.", EXAMPLES, flags, argv)
    cfg = config_of(arguments)
    from segtrain.models.cost import HEADER, markdown, table  # imports torch: seconds

    rows = table(cfg)
    if arguments.markdown:
        sys.stdout.write(markdown(rows))
        return 0
    channels, size_px = cfg.data.channels, cfg.data.image_size
    show_table(f"Networks, one image of {channels} x {size_px} x {size_px}", rows, HEADER)
    return 0
