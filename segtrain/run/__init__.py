"""The run directory, a public interface: sole owner of its names, of what lies in it, and of how it is written.

    reader.py        the names, and what a run holds; changes nothing
    writer.py        a run to be trained in
    checkpoint.py    weights, moments and state, written whole or not at all (torch)
    events.py        what metrics.jsonl holds, a typed event a line
    outcome.py       how the last start ended
    environment.py   what a run was trained with
    tensorboard.py   the curves, derived from the events (torch)
    ablation.py      a spec of variants, folds and seeds becomes runs

All but those marked import without torch.
"""

from segtrain.run.ablation import COLUMNS, Member, Name, Spec, differences, expand, missing
from segtrain.run.outcome import Outcome
from segtrain.run.reader import RunFiles
from segtrain.run.writer import Run, write_evaluation

__all__ = [
    "COLUMNS",
    "Member",
    "Name",
    "Outcome",
    "Run",
    "RunFiles",
    "Spec",
    "differences",
    "expand",
    "missing",
    "write_evaluation",
]
