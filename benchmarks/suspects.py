"""How many of ten planted label errors `segtrain suspects` finds among forty real patients, and after how many others.

python -m benchmarks.suspects --lgg /data/kaggle_3m                # plants, trains configs/ablation/suspects.yaml

The ranking by 1 - DSC stands beside it. Trained runs are kept in --folder and not trained again.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.harness import refuse_no_patients
from benchmarks.planted import Error, plant
from segtrain.commands import suspects
from segtrain.errors import RunError
from segtrain.runtime.process import run_command, start_logging
from segtrain.runtime.terminal import show_table

SPEC = Path(__file__).resolve().parent.parent / "configs" / "ablation" / "suspects.yaml"
FIRST = (10, 15, 20)
Row = Mapping[str, str]
RANKINGS: dict[str, Callable[[Row], float]] = {
    "segtrain suspects": lambda row: -float(row["score"]),
    "1 - DSC": lambda row: float(row["dsc"]),
}


def command(argv: Sequence[str]) -> int:
    """Plant, train, judge; print the place of each planted error in both rankings."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.suspects", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lgg", type=Path, required=True, help="folder of real patients (kaggle_3m)")
    parser.add_argument("--folder", type=Path, default=Path(".bench/suspects"), help="data, runs and result")
    parser.add_argument("--seed", type=int, default=21, help="of the patients and errors (21)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the training, for example device=cuda")
    arguments = parser.parse_args(list(argv))
    refuse_no_patients(parser, arguments.lgg)
    start_logging()
    folder = arguments.folder.resolve() / f"seed-{arguments.seed}"  # errors of two seeds must not be mixed
    errors = plant(arguments.lgg, folder / "planted", arguments.seed)
    places = [f"data.root={folder / 'planted'}", f"data.store={folder / 'prepared'}", f"runs_dir={folder / 'runs'}"]
    words = [sys.executable, "-m", "jobs.ablate", str(SPEC), *places, *arguments.overrides]
    if code := subprocess.run(words, check=False).returncode:
        raise RunError(f"{SPEC}: its runs were not trained (exit code {code}); see above")
    runs = sorted(str(path.parent) for path in (folder / "runs" / "suspects").glob("*/config.yaml"))
    suspects.command([*runs, "--out", str(folder / "suspects")])
    rows = list(csv.DictReader((folder / "suspects" / "suspects.csv").read_text(encoding="utf-8").splitlines()))
    show(rows, errors)
    return 0


def show(rows: Sequence[Row], errors: Mapping[str, Error]) -> None:
    """Tables: how many errors are among the first, and the place of each."""
    places = {name: ranks(rows, key) for name, key in RANKINGS.items()}
    lines = [
        (name, *(f"{sum(of[patient] <= n for patient in errors)} of {len(errors)}" for n in FIRST))
        for name, of in places.items()
    ]
    show_table(f"Planted errors among the first of {len(rows)}", lines, ("ranking", *map(str, FIRST)))
    kinds = {row["patient"]: row["kind"] for row in rows}
    first_ranking = next(iter(places.values()))
    details = [
        (
            patient,
            errors[patient].kind,
            errors[patient].detail,
            kinds[patient],
            *(str(of[patient]) for of in places.values()),
        )
        for patient in sorted(errors, key=lambda patient: first_ranking[patient])
    ]
    show_table("Place of each", details, ("patient", "planted", "", "kind", *places))


def ranks(rows: Sequence[Row], key: Callable[[Row], float]) -> dict[str, int]:
    """The place of each patient, from 1."""
    return {row["patient"]: place for place, row in enumerate(sorted(rows, key=key), start=1)}


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
