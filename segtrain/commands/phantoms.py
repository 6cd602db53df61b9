"""The command `segtrain phantoms`: made-up patients, written as a data set in the layout of a public one."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from segtrain.commands.arguments import add_choice
from segtrain.config import PhantomConfig, checked
from segtrain.data.layouts import LAYOUTS, Settings, write_phantoms
from segtrain.errors import EXIT_FINISHED
from segtrain.runtime.process import start_logging

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain phantoms --out made_up --layout nnunet
  segtrain phantoms --out made_up --layout brats --patients 6 --spacing 3 1 1
  segtrain phantoms --out made_up --layout slices --contrasts t1 flair --bits 16 --twin

The patients are made up: no score on them says anything about real ones. They are to try the layout of your own files
before these are at hand: write one that is like them, then prepare, train and predict.
"""


def command(argv: Sequence[str]) -> int:
    """Write the data set."""
    arguments = _parser().parse_args(argv)
    start_logging()
    layout = LAYOUTS[arguments.layout]
    phantom = {
        "patients": arguments.patients,
        "seed": arguments.seed,
        "size_px": arguments.size,
        "contrasts": arguments.contrasts or layout.contrasts,
        "regions": arguments.regions or layout.regions,
        "spacing_mm": arguments.spacing,
        "unlabelled": arguments.unlabelled,
    }
    settings = Settings(
        checked(PhantomConfig, phantom, "segtrain phantoms"), arguments.bits or layout.bits, arguments.twin
    )
    write_phantoms(arguments.layout, arguments.out, settings)
    log.info("%d made-up scans: %s", settings.patients, arguments.out.resolve())
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "segtrain phantoms",
        description="Write made-up patients as a data set, to try a layout of files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", required=True, help="where the data set goes: an empty or a new folder")
    add_choice(parser, "--layout", {name: layout.doc for name, layout in LAYOUTS.items()})
    add("--patients", type=int, default=12, metavar="N", help="number of scans (default: 12)")
    add("--size", type=int, default=128, metavar="PX", help="side of a slice (default: 128)")
    add("--seed", type=int, default=0, help="of the made-up patients (default: 0)")
    add("--contrasts", nargs="+", metavar="NAME", help="of t1, t1ce, t2, flair (default: those of the layout)")
    add("--regions", type=int, choices=(1, 3), help="1: the lesion; 3: necrosis, edema, what enhances (labels 1, 2, 3)")
    add("--bits", type=int, choices=(8, 16), help="of a voxel")
    add("--spacing", type=float, nargs=3, metavar=("SLICE", "ROW", "COLUMN"), help="mm between slices, rows, columns")
    add("--unlabelled", type=float, default=0.0, metavar="SHARE", help="share of slices that nobody labelled")
    add("--twin", action="store_true", help="--layout slices: masks in a folder of their own")
    return parser
