"""Predicted against true lesion volume: a patient's columns, and agreement over people by Bland and Altman.

Units: ml where the spacing is known, voxels else; the column says which. Agreement is of one unit.

Legend: s slice, h height, w width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtrain.evaluation.intervals import CONFIDENCE
from segtrain.evaluation.units import Spacing, in_unit, unit

SOURCE = (
    "J. M. Bland, D. G. Altman, Lancet 1986; intervals of the limits: A. Carkeet, Optometry and Vision Science 2015"
)
LIMIT = 1.96  # standard deviations from the bias to a limit; 95% of differences lie between, if they are normal


def names(spacing_mm: Spacing | None) -> tuple[str, ...]:
    """The columns of `volume_scores`."""
    word = unit(spacing_mm)
    return (f"true_{word}", f"predicted_{word}", f"volume_error_{word}", "volume_error_percent")


def volume_scores(
    predicted_shw: NDArray[np.bool_], true_shw: NDArray[np.bool_], spacing_mm: Spacing | None = None
) -> dict[str, float | None]:
    """true_ml, predicted_ml, volume_error_ml (predicted - true), or the same in voxels; volume_error_percent of true.

    Empty rule: an empty volume is 0; without a true lesion there is no percentage.
    """
    true, predicted = (in_unit(int(np.count_nonzero(volume)), spacing_mm) for volume in (true_shw, predicted_shw))
    word = unit(spacing_mm)
    return {
        f"true_{word}": true,
        f"predicted_{word}": predicted,
        f"volume_error_{word}": predicted - true,
        "volume_error_percent": 100 * (predicted - true) / true if true else None,
    }


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% confidence interval; the ends are NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Bias (mean of predicted - true) and limits of agreement (bias -+ 1.96 sd) of n people, in their volumes' unit."""

    n: int
    bias: Estimate
    sd: float
    lower: Estimate
    upper: Estimate


def agreement(predicted: Sequence[float], true: Sequence[float]) -> Agreement:
    """Bland-Altman agreement of pairs, one a person: repeated scans of one person would make intervals too narrow.

    The bias has Student's interval. Those of the limits are exact for normal differences, whatever n: bias -+ 1.96 sd
    is estimated like a quantile of a normal distribution, by the noncentral t (Carkeet 2015). With ten people an end of
    a limit is further out than Bland and Altman's approximation of 1999 has it. One pair has a bias and nothing else.

    Where differences grow with the volume, as they do for lesions of 1 to 100 ml, the limits are too wide for small
    lesions and too narrow for large ones: look at the figure.
    """
    differences = np.asarray(predicted, np.float64) - np.asarray(true, np.float64)
    n = len(differences)
    assert n == len(predicted) == len(true) > 0, "pairs of volumes, at least one"
    bias = math.fsum(differences) / n
    if n == 1:
        none = Estimate(math.nan, math.nan, math.nan)
        return Agreement(n, Estimate(bias, math.nan, math.nan), math.nan, none, none)
    from scipy import stats  # slow to import

    sd = float(differences.std(ddof=1))
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    student = stats.t.ppf(tails[1], n - 1) * sd / math.sqrt(n)
    # sqrt(n) (bias - limit) / sd has the noncentral t distribution around sqrt(n) times 1.96.
    inner, outer = (sd * float(stats.nct.ppf(tail, n - 1, LIMIT * math.sqrt(n))) / math.sqrt(n) for tail in tails)
    return Agreement(
        n=n,
        bias=Estimate(bias, bias - student, bias + student),
        sd=sd,
        lower=Estimate(bias - LIMIT * sd, bias - outer, bias - inner),
        upper=Estimate(bias + LIMIT * sd, bias + inner, bias + outer),
    )
