"""The job that comes after an ablation's: the table of results, for whatever ended and however it ended."""

from pathlib import Path

from jobs.submission import Submission
from segtrain.ablate import write_results
from segtrain.ablation import Member
from segtrain.loading import load_config


def write(root: str) -> str:
    """Bring the results of the submission in `root` up to date; returns the path of the table."""
    submission = Submission(Path(root))
    members = [
        Member(row["variant"], row["fold"], row["seed"], load_config(submission.config(row["name"])))
        for row in submission.record["members"]
    ]
    return str(write_results(members))
