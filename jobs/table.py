"""The job that comes after an ablation's: table and report, of whatever ended and however it ended."""

import logging
from pathlib import Path
from typing import Any

from jobs.submission import Submission
from segtrain.ablate import write_results
from segtrain.ablation import COLUMNS, Member
from segtrain.cli import start_logging
from segtrain.errors import RunError, SegtrainError
from segtrain.loading import load_config
from segtrain.report.command import make

log = logging.getLogger("segtrain.jobs")

REPORT = "report"  # beside the runs
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError)  # of a file that is damaged, or half of one


class _Found(Member):
    """A member whose directory may hold anything: it does not cost the others their table."""

    def row(self) -> dict[str, Any]:
        try:
            return super().row()
        except BROKEN as error:
            log.warning("%s: cannot be read (%s: %s)", self.run.root, type(error).__name__, error)
            found = {"run": self.cfg.name, "variant": self.variant, "fold": self.fold, "seed": self.seed}
            return dict.fromkeys(COLUMNS) | found | {"state": "unreadable"}

    def finished(self) -> bool:
        try:
            return bool(self.run.finished(self.cfg))
        except (RunError, *BROKEN):
            return False


def write(root: str) -> str:
    """Bring results.csv of the submission in `root` up to date, then the report; returns the path of the page.

    The report comes twice: at once without the atlas, which predicts for minutes and may not fit into the job.
    """
    start_logging()
    submission = Submission(Path(root))
    members = [
        _Found(row["variant"], row["fold"], row["seed"], load_config(submission.config(row["name"])))
        for row in submission.record["members"]
    ]
    table = write_results(members)
    finished = {member.variant for member in members if member.finished()}
    baseline = members[0].variant if members[0].variant in finished else None
    try:
        make([table.parent], table.with_name(REPORT), baseline=baseline)
        return str(make([table.parent], table.with_name(REPORT), baseline=baseline, atlas_of=()))
    except SegtrainError as error:  # no run has begun, say; the table stands
        log.warning("no report: %s", error)
        return str(table)
