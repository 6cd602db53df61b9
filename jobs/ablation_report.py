"""Table and report of an ablation, whatever ended and however; on a cluster the job after the ablation's."""

import logging
from pathlib import Path

from jobs import submission
from jobs.submission import Submission
from segtrain.config import load_config
from segtrain.errors import SegtrainError
from segtrain.report.write import make
from segtrain.run import Member, write_results
from segtrain.runtime.process import start_logging

log = logging.getLogger("segtrain.jobs")

REPORT = submission.REPORT


def write(root: str) -> str:
    """Bring results.csv of the submission in `root` up to date, then the report; returns the path of the page.

    The report comes twice: at once without the atlas, which predicts for minutes and may not fit into the job.
    """
    start_logging()
    submitted = Submission(Path(root))
    members = [
        Member(row["variant"], row["fold"], row["seed"], load_config(submitted.config(row["name"])), row.get("repeat"))
        for row in submitted.record["members"]
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
