"""The command `segtrain report`: runs, or a whole ablation, on one page that opens without network."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from segtrain.commands.arguments import add_choice, runs_and_overrides
from segtrain.errors import EXIT_FINISHED
from segtrain.evaluation.lesion_places import SORTS
from segtrain.report.texts import Language
from segtrain.report.write import PaperFormat, make
from segtrain.runtime.process import start_logging

log = logging.getLogger(__name__)

ATLAS_KEYS = ("data.root", "data.store", "device", "allocator", "evaluate.batch")  # none of them changes a score
EXAMPLES = """\
examples:
  segtrain report runs/lgg --out report
  segtrain report runs/loss --out report --baseline dice --lang zh
  segtrain report runs/unet-seed1 runs/resunet-seed1 --out report
  segtrain report runs/lgg --out report data.root=/elsewhere/kaggle_3m device=cuda
  segtrain report runs/loss --out report --figures pdf

A folder means all runs below it. Runs named <variant>-fold<k>-seed<s>, as `segtrain ablate` names them, are compared
by variant; any other run is a variant of its own. The atlas shows every validation patient slice by slice, predicted
again from the last checkpoint; of an ablation, for one run of the baseline and one of the best other variant. It needs
the data, and about a minute for ten patients at 256 px on one core; where the data is missing, the report says so.
"""


def command(argv: Sequence[str]) -> int:
    """Write the report and log where it is."""
    parser = _parser()
    arguments = parser.parse_intermixed_args(list(argv))
    start_logging()
    paths, overrides = runs_and_overrides(arguments.words, ATLAS_KEYS)
    if arguments.no_atlas and arguments.atlas:
        parser.error("--atlas and --no-atlas exclude each other")
    atlas_of = None if arguments.no_atlas else arguments.atlas
    page = make(
        paths,
        arguments.out,
        arguments.lang,
        arguments.baseline,
        atlas_of,
        overrides,
        arguments.sort,
        arguments.figures,
    )
    log.info("%s: %.2f MB, opens without network", page.resolve(), page.stat().st_size / 1e6)
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "segtrain report",
        description="Write one self-contained page about a run or an ablation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "words",
        nargs="+",
        metavar="RUN|key=value",
        help=f"run directories, or folders of runs, and settings of the atlas: {', '.join(ATLAS_KEYS)}",
    )
    add("--out", type=Path, metavar="DIR", required=True, help="the folder for the report")
    add("--lang", choices=get_args(Language), default="en", help="language of headings and texts, default en")
    add("--baseline", metavar="VARIANT", help="the variant to compare with, default: the first that began")
    add(
        "--atlas",
        type=Path,
        metavar="RUN",
        action="append",
        default=[],
        help="make the atlas of this run instead; may be repeated",
    )
    add_choice(parser, "--sort", SORTS)
    add(
        "--figures",
        choices=get_args(PaperFormat),
        help="also write figures for papers, 3.5 and 7 inches wide, with captions.txt, into DIR/figures/paper; "
        "needs matplotlib",
    )
    add("--no-atlas", action="store_true", help="leave the atlas out; needs neither data nor torch")
    return parser
