"""What an ablation can find before it is trained: people, folds, seeds, the detectable difference, GPU hours.

The spreads come from an earlier report's results.csv (`--spreads`), or from the report of the same ablation; else they
are those of small runs on LGG. docs/statistics.md has the formula.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from segtrain.config import Config
from segtrain.config.schema import SOURCES
from segtrain.errors import ConfigError, SegtrainError
from segtrain.report.power import LGG_LIKE, POWER, Design, Spreads, detectable
from segtrain.run import Member, Spec
from segtrain.runtime.terminal import show_table

RESULTS = "results.csv"
PROPOSED = ((1, 3), (5, 1), (5, 2), (5, 3), (5, 5))  # folds, seeds
UNKNOWN_PEOPLE = (20, 40, 100)  # shown where the number of patients is not known
HEADS = ("folds x seeds", "runs", "GPU hours", "patients", f"difference found in {POWER:.0%}")


@dataclass(frozen=True)
class Earlier:
    """The spreads of an earlier report, and the GPU hours of one of its runs, where it had a GPU."""

    spreads: Spreads
    gpu_hours: float | None = None


def show(spec: Spec, members: Sequence[Member], report: Path, asked: Path | None) -> str:
    """Print the table; returns a line on what it rests on. Raises ConfigError: `asked` is no report with spreads."""
    comparisons = len(spec.variants) - 1
    if not comparisons:
        return "One variant: nothing is compared."
    cfg = members[0].cfg
    earlier = _read(asked or report, asked is not None)
    folds, seeds = len(spec.folds) or 1, len(spec.seeds) or 1
    everybody = _everybody(cfg)
    rows = []
    for design in dict.fromkeys([(folds, seeds), *PROPOSED]):
        runs = len(spec.variants) * design[0] * design[1]
        hours = "" if earlier.gpu_hours is None else f"{earlier.gpu_hours * runs:.1f}"
        as_specified = design == (folds, seeds) or design[0] == 1
        people = _people(cfg, everybody, design[0] if as_specified else cfg.data.folds)
        differences = (_difference(Design(n, *design, comparisons), earlier.spreads) for n in people)
        name = f"{design[0]} x {design[1]}" + (" (this spec)" if design == (folds, seeds) else "")
        rows.append((name, str(runs), hours, " / ".join(map(str, people)), " / ".join(differences)))
    spreads = earlier.spreads
    show_table(
        f"{spec.name}: what it can find, over {comparisons} comparisons with {next(iter(spec.variants))}", rows, HEADS
    )
    return (
        f"Spreads: sd of patients' differences {spreads.people:.3f}, sd between trainings {spreads.trainings:.3f}, "
        f"{spreads.origin}. --spreads REPORT takes those of an earlier report."
    )


def _difference(design: Design, spreads: Spreads) -> str:
    if not design.decidable:
        return "no verdict"
    smallest = detectable(design, spreads)
    return "none" if smallest is None else f"{smallest:.3f}"


def _everybody(cfg: Config) -> int | None:
    """The number of the source's patients; None where it says nothing, or cannot be read here."""
    if cfg.data.split == "file" or cfg.data.source not in SOURCES:  # an own source is code, which is not run here
        return None
    from segtrain.data.sources import make_source  # slow to import

    try:
        return len(make_source(cfg.data).patients())
    except SegtrainError:  # the check of the runs, which follows, says what is wrong
        return None


def _people(cfg: Config, everybody: int | None, folds: int) -> tuple[int, ...]:
    """How many patients so many folds validate; several numbers where it is not known."""
    if cfg.data.split == "reference" and folds == 1:
        return (cfg.data.validation_patients,)
    if everybody is None:
        return UNKNOWN_PEOPLE
    return (max(1, everybody * min(folds, cfg.data.folds) // cfg.data.folds),)


def _read(folder: Path, must: bool) -> Earlier:
    """The spreads of a report: medians over its comparisons. Without them LGG's, unless they `must` be there."""
    table = folder / RESULTS if folder.is_dir() else folder
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
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
