"""The run directory, a public interface: sole owner of the names in it, and of how it is read and written.

    layout.py        the names of files and folders, in a run directory and beside it
    reader.py        a run, read
    writer.py        a run, to be trained in
    stored.py        files read without trust: damage is one error that names the file
    events.py        the lines of metrics.jsonl, typed
    milestones.py    first, best and last events, read from both ends of metrics.jsonl
    live.py          how a training goes: facts, and events read as they come
    ranks.py         what the ranks report while they train
    split.py         the patients of both sides: split.json
    outcome.py       how the last start ended: outcome.json
    result.py        what a run has achieved so far, in numbers
    environment.py   what a start used: an entry of environment.json
    evaluation.py    the scores of `segtrain evaluate`
    postprocessing.py  the settings of `segtrain postprocess`
    code.py          the user's own parts, copied into the run
    ablation.py      a spec of variants, folds and seeds becomes runs
    ablation_record.py  ablation.json: how an ablation's best is confirmed, or what it confirms
    needs.py         files and packages that the variants of an ablation need and that are not there
    tracked.py       tracked.json: what trackers were sent
    index.py         results.csv and queue.csv, which list runs
    model_archive.py a trained network as one zip
    manifest.py      what a checkpoint consists of
    checkpoint.py    weights, moments and state, written whole or not at all (torch)
    tensorboard.py   the curves, derived from the events, and the config (torch)

All but those marked import without torch.
"""

from segtrain.run.ablation import (
    Member,
    Name,
    Spec,
    confirmation,
    confirmation_name,
    differences,
    expand,
    write_results,
)
from segtrain.run.ablation_record import AblationRecord, Search, read_record, write_record
from segtrain.run.environment import Environment
from segtrain.run.evaluation import EvaluationFiles, foreign_file, read_evaluation, write_evaluation
from segtrain.run.index import COLUMNS, QueueLine, ResultsLine, read_queue, read_results, write_queue
from segtrain.run.layout import RunLayout
from segtrain.run.needs import missing
from segtrain.run.outcome import Outcome
from segtrain.run.postprocessing import (
    ChosenPostprocessing,
    Effect,
    FoldMember,
    RegionChoice,
    read_effects,
    read_postprocessing,
    write_postprocessing,
)
from segtrain.run.result import Result
from segtrain.run.split import RunSplit
from segtrain.run.writer import Run

__all__ = [
    "COLUMNS",
    "AblationRecord",
    "ChosenPostprocessing",
    "Effect",
    "Environment",
    "EvaluationFiles",
    "FoldMember",
    "Member",
    "Name",
    "Outcome",
    "QueueLine",
    "RegionChoice",
    "Result",
    "ResultsLine",
    "Run",
    "RunLayout",
    "RunSplit",
    "Search",
    "Spec",
    "confirmation",
    "confirmation_name",
    "differences",
    "expand",
    "foreign_file",
    "missing",
    "read_effects",
    "read_evaluation",
    "read_postprocessing",
    "read_queue",
    "read_record",
    "read_results",
    "write_evaluation",
    "write_postprocessing",
    "write_queue",
    "write_record",
    "write_results",
]
