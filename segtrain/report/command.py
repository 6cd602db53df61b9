"""The command `segtrain report`: runs, or a whole ablation, as one page that opens without network."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from segtrain.cli import start_logging
from segtrain.errors import RunError
from segtrain.report.texts import Language

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain report runs/lgg --out report
  segtrain report runs/loss --out report --baseline dice --lang zh
  segtrain report runs/unet-seed1 runs/resunet-seed1 --out report

A folder stands for all runs below it. Runs named <variant>-fold<k>-seed<s>, as `segtrain ablate` names them, are
compared variant by variant; any other run is a variant of its own.
"""


def command(argv: Sequence[str]) -> int:
    """Write the report and say where it is."""
    parser = argparse.ArgumentParser(
        "segtrain report", description="Write one self-contained page about a run or an ablation.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's directory, or a folder of runs")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="where the report goes")
    parser.add_argument("--lang", choices=get_args(Language), default="en", help="of headings and texts, default en")
    parser.add_argument("--baseline", metavar="VARIANT", help="compared with this one, default: the first that began")
    arguments = parser.parse_intermixed_args(list(argv))
    start_logging()
    page = make(arguments.runs, arguments.out, arguments.lang, arguments.baseline)
    log.info("%s: %.2f MB, opens without network", page.resolve(), page.stat().st_size / 1e6)
    return 0


def make(paths: Sequence[Path], out: Path, language: Language = "en", baseline: str | None = None) -> Path:
    """Write the report of the runs in `paths` into `out`; returns the page. Raises RunError before it writes."""
    from segtrain.report import collect, content, page  # what they import is slow
    from segtrain.report.statistics import compare

    if out.resolve() in [path.resolve() for path in paths]:
        raise RunError(f"--out {out}: is what the report is about; name another folder, for example {out / 'report'}")
    if out.exists() and not out.is_dir():
        raise RunError(f"--out {out}: is a file; name a folder")
    runs = collect.collect(paths)
    first, groups = collect.by_variant(runs, baseline)
    rows = compare({variant: collect.scores(own) for variant, own in groups.items()}, first) if groups else []
    if len(rows) > 1:
        log.info("compared with %s; --baseline VARIANT chooses another", first)
    say = content.speaker(language)
    try:
        return page.write(out, language, content.sections(runs, groups, rows, say), rows, groups, say)
    except OSError as error:
        raise RunError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error
