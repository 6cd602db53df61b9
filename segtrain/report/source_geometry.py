"""Scores in the source's geometry, where runs of other sizes may be compared; `segtrain evaluate` writes them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from segtrain.config import POSTPROCESSING
from segtrain.errors import DAMAGED
from segtrain.report.collect import Collected
from segtrain.report.epochs import Evaluation, by_patient_and_region
from segtrain.report.scored import LAST, is_current
from segtrain.run import read_evaluation
from segtrain.run.stored import number_in

DSC = "original_dsc"
RULES = (*POSTPROCESSING, "tta")  # settings of evaluate that change scores


def in_source_geometry(run: Collected) -> Collected | None:
    """The run with the scores of its last epoch in the source's geometry; None where they have not been written."""
    if run.last is None or run.config is None:
        return None
    try:
        rows, summary = read_evaluation(run.run.evaluations / LAST)
        settings, wanted = summary["settings"], asdict(run.config.evaluate)
        fits = (
            is_current(run, LAST, summary)
            and all(settings[key] == wanted[key] for key in RULES)
            and summary["empty_masks"] == run.empty_rule
            and {row["patient"] for row in rows} == set(run.last.by_patient)
        )
        scored = _evaluation(run.last, rows) if fits else None
    except DAMAGED:
        return None
    return replace(run, last=scored, best=scored) if scored else None


def _evaluation(last: Evaluation, rows: Sequence[Mapping[str, str]]) -> Evaluation:
    """The last epoch's, of these rows. Raises KeyError or ValueError: they are of the prepared geometry alone."""
    by_patient, by_region = by_patient_and_region(rows, list(last.by_region), lambda row: number_in(row[DSC]))
    mean = math.fsum(by_patient.values()) / len(by_patient)
    return replace(last, dsc=mean, rows=rows, by_patient=by_patient, by_region=by_region)
