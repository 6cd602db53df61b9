"""The spreads and the cost that an earlier report found, from its results.csv, for the plan of the next ablation."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from segtrain.errors import ConfigError
from segtrain.report.power import LGG_LIKE, Spreads
from segtrain.runtime.cells import read_csv

RESULTS = "results.csv"  # of a report


@dataclass(frozen=True)
class Earlier:
    """The spreads of an earlier report, and the GPU hours of one of its runs, where it had a GPU."""

    spreads: Spreads
    gpu_hours: float | None = None


def read_earlier(folder: Path, must: bool) -> Earlier:
    """The spreads of a report: medians over its comparisons. Without them LGG's, unless they `must` be there.

    Raises ConfigError.
    """
    table = folder / RESULTS if folder.is_dir() else folder
    try:
        rows = read_csv(io.StringIO(table.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        if must:
            raise ConfigError(f"--spreads {folder}: no report is there ({error}); name the folder of one") from error
        return Earlier(LGG_LIKE)
    people = _numbers(rows, "sd_differences")
    if not people:
        if must:
            raise ConfigError(f"--spreads {table}: compares no variants; name a report over two variants or more")
        return Earlier(LGG_LIKE)
    trainings, noise = _numbers(rows, "sd_trainings"), _numbers(rows, "sd_noise")
    runs, folds = _numbers(rows, "runs"), _numbers(rows, "folds")
    origin = f"of {table}" if trainings else f"of {table}, which has one seed: the second is that of small runs on LGG"
    spreads = Spreads(
        people=median(people),
        trainings=median(trainings) if trainings else LGG_LIKE.trainings,
        noise=median(noise) if noise else 0.0,
        seeds=max(1.0, fmean(runs) / fmean(folds)),
        origin=origin,
    )
    hours = sum(_numbers(rows, "gpu_hours"))
    return Earlier(spreads, hours / sum(runs) if hours and runs else None)


def _numbers(rows: Sequence[Mapping[str, str]], column: str) -> list[float]:
    """The numbers of a column in the lines of variants, not of their regions."""
    whole = [row for row in rows if row.get("region", "") in ("", "mean over regions")]
    return [float(row[column]) for row in whole if row.get(column)]
