"""A run as Python sees it: its config, tables that pandas takes, scores with their n, its best weights."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import TYPE_CHECKING, Any, Union

from segtrain.api.pictures import Pictures, shown
from segtrain.api.undisturbed import plain_errors, undisturbed
from segtrain.config import Config, flatten
from segtrain.errors import ConfigError, RunError
from segtrain.evaluation.ensemble import network_of, select_checkpoints
from segtrain.run import Run as RunFolder
from segtrain.run import read_evaluation
from segtrain.run.code import with_own_code
from segtrain.run.events import best_of, evaluations, train_events, with_steps
from segtrain.run.result import ResultState

if TYPE_CHECKING:
    from torch import nn

Table = list[dict[str, Any]]  # a dict a row: pandas.DataFrame takes it as it is
PathLike = str | os.PathLike[str]
Runs = Union["Run", PathLike, Sequence[Union["Run", PathLike]]]
TEXTS = ("patient", "region", "institution", "trained_on")  # columns of names, which may look like numbers: 001, 10_2


@dataclass(frozen=True)
class Mean:
    """A mean over `n` patients, with its 95% interval where there are several."""

    mean: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.ci_low is None else f", 95% CI {self.ci_low:.4f} to {self.ci_high:.4f}"
        return f"{self.mean:.4f} (n = {self.n}{interval})"

    def __float__(self) -> float:
        return self.mean


@dataclass(frozen=True)
class Evaluation:
    """The scores of `segtrain.evaluate`: a row a patient, or a patient and region, and their summary."""

    folder: Path
    patients: Table
    summary: Mapping[str, Any]

    @property
    def dsc(self) -> Mean | None:
        """Of the patients that were not trained on, as the network sees them where that was scored."""
        means = self.summary["not_trained_on"]
        dsc = means.get("dsc") or means["original_dsc"]
        return Mean(dsc["mean"], dsc["n"], dsc["ci_low"], dsc["ci_high"]) if dsc["n"] else None

    def __repr__(self) -> str:
        return f"<Evaluation: mean DSC {self.dsc}, {self.folder}>"


class Run:
    """A run directory, read: `Run("runs/mine")`. Raises RunError where it holds no run, as soon as it is asked."""

    def __init__(self, folder: PathLike, _stopped: str | None = None) -> None:
        self._folder = RunFolder(Path(folder))
        self._stopped = _stopped  # why a training of this process stopped, maybe before it wrote anything

    @property
    def path(self) -> Path:
        return self._folder.root

    @property
    def name(self) -> str:
        return self.path.name

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def state(self) -> ResultState:
        """finished, stopped, diverged, failed; running; none before the first step."""
        state = self._folder.result().state
        return "stopped" if state == "none" and self._stopped else state

    @property
    def message(self) -> str | None:
        """Why a run that is not finished has ended."""
        outcome = self._folder.outcome()
        return outcome.message if outcome else self._stopped

    @property
    def config(self) -> Config:
        """The config that it was trained with, with its own parts in the copies that the run keeps."""
        try:
            return with_own_code(self._folder, self._folder.config())
        except OSError as error:
            raise RunError(f"{self.path}: holds no readable run ({error}); name the folder of a run") from error

    @property
    def events(self) -> Table:
        """All that was recorded while it trained: a row an event, of the kind train or evaluation."""
        return [{"event": event.kind, **dict(flatten(asdict(event)))} for event in self._folder.events()]

    @property
    def epochs(self) -> Table:
        """A row an evaluated epoch: training loss, validation loss, DSC with n and interval, images a second."""
        events = self._folder.events()
        training = list(with_steps(train_events(events)))
        rows, first = [], 0
        for scored in evaluations(events):
            since = [(event, steps) for event, steps in training if first < event.step <= scored.step]
            row = dict(flatten({key: value for key, value in asdict(scored).items() if value != {}}))
            counts = [steps for _, steps in since]
            row["loss"] = fmean([event.loss for event, _ in since], counts) if since else None
            row["images_per_s"] = harmonic_mean([event.images_per_s for event, _ in since], counts) if since else None
            rows.append(row)
            first = scored.step
        return rows

    @property
    def patients(self) -> Table:
        """The validation patients in the epoch with the best mean DSC: voxels, TP, FP, FN, DSC."""
        scored = evaluations(self._folder.events())
        return [typed(row) for row in self._folder.scores(best_of(scored).epoch)] if scored else []

    @property
    def dsc(self) -> Mean | None:
        """The best mean DSC of the validation patients; None before the first evaluation."""
        scored = evaluations(self._folder.events())
        if not scored:
            return None
        best = best_of(scored)
        return Mean(best.val_dsc, best.n, best.ci_low, best.ci_high)

    @property
    def best(self) -> Path | None:
        """The file of the best weights, a plain state dict in safetensors; None before the first evaluation."""
        name = self._folder.best_checkpoint()
        return self._folder.weights(name) if name else None

    @plain_errors
    def network(self, checkpoint: str | int = "best") -> "nn.Module":
        """The network with the weights of a checkpoint (best, last or a step), on the CPU, in evaluation mode."""
        import torch  # slow

        with undisturbed():
            (selected,) = select_checkpoints([self.path], str(checkpoint), [])
            return network_of(selected, torch.device("cpu"))

    def show(self) -> Pictures:
        """The curves and the newest overlays: shown in a notebook, and returned."""
        return shown(self._folder)

    def __repr__(self) -> str:
        dsc = self.dsc
        return f"<Run {self.path}: {self.state}{f', best mean DSC {dsc}' if dsc else ''}>"

    def __rich__(self) -> str:
        return repr(self).replace("[", r"\[")

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(repr(self))}</code>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.path.resolve() == self.path.resolve()

    def __hash__(self) -> int:
        return hash(self.path.resolve())


def evaluation_in(folder: Path) -> Evaluation:
    """The scores in the folder of an evaluation."""
    rows, summary = read_evaluation(folder)
    return Evaluation(folder, [typed(row) for row in rows], summary)


def folders_of(runs: Runs) -> list[Path]:
    """The folders of a run or of several. Raises ConfigError for none."""
    several: Iterable[Any] = [runs] if isinstance(runs, Run | str | os.PathLike) else runs
    folders = [Path(os.fspath(one)).absolute() for one in several]
    if not folders:
        raise ConfigError(f"runs={runs}: no run is named; give a run, a run's folder, or several of them")
    return folders


def typed(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a table, with its numbers; an empty cell is None."""
    return {name: _value(name, cell) for name, cell in row.items()}


def _value(column: str, cell: str) -> Any:
    if not cell:
        return None
    for kind in () if column in TEXTS else (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
