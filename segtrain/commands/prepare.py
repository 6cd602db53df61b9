"""The command `segtrain prepare`: the source checked, its store built and summed up, or only surveyed."""

from collections.abc import Sequence

from segtrain.commands.arguments import config_of, config_parser
from segtrain.config.licence import licence_of
from segtrain.data.label_table import LABELS, REGIONS, label_rows, region_rows
from segtrain.data.prepare import ensure_store, log_left_out, summary, verify
from segtrain.data.survey import survey
from segtrain.errors import DataError
from segtrain.runtime.process import start_logging
from segtrain.runtime.terminal import show_table

EXAMPLES = """\
  segtrain prepare --config configs/lgg.yaml data.root=/data/kaggle_3m
  segtrain prepare --dry-run data.source=auto data.root=/data/new
  segtrain prepare --verify --config configs/lgg.yaml data.root=/data/kaggle_3m
  segtrain prepare data.image_size=128
"""


def command(argv: Sequence[str]) -> int:
    """Check the source, build its store, print a table of what is in it."""
    parser = config_parser("segtrain prepare", "Check the data and prepare it once for all runs.", EXAMPLES)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say in seconds what would be taken for what and what would be refused, and write nothing",
    )
    parser.add_argument("--verify", action="store_true", help="check each prepared file against its hash")
    arguments = parser.parse_intermixed_args(argv)
    start_logging()
    cfg = config_of(arguments).data
    if arguments.dry_run:
        seen = survey(cfg)
        show_table("What is taken for what", seen.rows())
        if reasons := seen.refusals:
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            raise DataError(f"{reasons[0]}{more}")
        return 0
    store = ensure_store(cfg)
    if arguments.verify:
        verify(store)
    log_left_out(cfg, store)
    licence = ("licence of the data", licence_of(store.resolved(cfg)))
    show_table("Prepared data", [*summary(store, cfg.groups), licence])
    for title, header, rows in (
        ("Labels of the masks", LABELS, label_rows(store)),
        ("Regions", REGIONS, region_rows(store)),
    ):
        if rows:
            show_table(title, rows, header)
    return 0
