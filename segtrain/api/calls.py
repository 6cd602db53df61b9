"""The functions of `import segtrain`: what the commands do, for a caller whose process goes on."""

import io
import logging
import os
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from segtrain.api.objects import Part, on_record
from segtrain.api.ranks import refuse_nproc, refuse_ranks_of, train_by_ranks
from segtrain.api.run import Evaluation, Run, Runs, evaluation_in, folders_of
from segtrain.api.undisturbed import plain_errors, undisturbed
from segtrain.commands import evaluate as evaluate_command
from segtrain.commands import predict as predict_command
from segtrain.config import Config, find_config, merge, nearest, read_yaml
from segtrain.config import load_config as load
from segtrain.data.sources import LAYOUTS
from segtrain.errors import ConfigError, Stopped
from segtrain.evaluation.lesion_places import SORTS
from segtrain.report.texts import Language
from segtrain.report.write import make
from segtrain.run import Run as RunFolder
from segtrain.runtime.process import start_logging
from segtrain.runtime.stop import Stop
from segtrain.training import rank

log = logging.getLogger(__name__)

T = TypeVar("T")
PathLike = str | os.PathLike[str]
Source = Config | Mapping[str, Any] | PathLike | None
CALL = "the arguments"


@plain_errors
def load_config(source: Source = None, /, *overrides: str, **values: Any) -> Config:
    """The config of a YAML file, of the name of a packaged config, of a dict, or a Config; by default made-up patients.

    `overrides` are written as on the command line, "optim.lr=1e-3"; `values` are keys of the config with their values,
    name="mine" or optim={"lr": 1e-3}. Raises ConfigError.
    """
    if isinstance(source, Config) and not overrides and not values:
        return source
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    tree: Any = None
    if isinstance(source, Config):
        tree = asdict(source)
    elif isinstance(source, Mapping):
        tree = deepcopy(dict(source))
    if values:
        tree = read_yaml(find_config(path or "phantom")) if tree is None else tree
        merge(tree, values, CALL)
    # Where an error says what is wrong: in the file, or in what was given here.
    where = (f"{path} with {CALL}" if values else None) if path else CALL
    return load(path, overrides, tree, where=where, overrides_from=CALL)


@plain_errors
def train(
    config: Source = None,
    /,
    *overrides: str,
    nproc: int = 1,
    fresh: bool = False,
    loss: Part = None,
    network: Part = None,
    augment: Part = None,
    optimizer: Part = None,
    schedule: Part = None,
    source: Part = None,
    **values: Any,
) -> Run:
    """Train a run in this process, or by `nproc` processes of this machine, and return it; the same call resumes.

    The config is given as to `load_config`. Parts may be given as classes or functions of yours: their source goes into
    the run's folder. An interrupt has the run saved and returned, stopped; a second one raises KeyboardInterrupt.
    Raises the errors of `segtrain.errors`. `fresh` starts over; the old run is kept beside.
    """
    parts = {"loss": loss, "model": network, "augment": augment, "optim": optimizer}
    parts |= {"schedule": schedule, "source": source}
    with undisturbed():
        stop = Stop()
        with stop.listening(), on_record(parts, nproc) as references:
            start_logging()
            refuse_nproc(nproc)
            cfg = load_config(load_config(config, *overrides, **values), **references)
            run = RunFolder.of(cfg)
            message = None
            try:
                if nproc == 1:
                    rank.train(cfg, ["--config", str(run.config_file)], fresh, stop)
                else:
                    refuse_ranks_of(cfg, nproc)
                    train_by_ranks(cfg, nproc, fresh, stop)
            except Stopped as stopped:
                message = str(stopped)
                log.warning("%s", message)
    return Run(run.root, message)


@plain_errors
def evaluate(
    runs: Runs,
    *settings: str,
    checkpoint: str | int = "best",
    split: PathLike = "validation",
    out: PathLike | None = None,
    include_training: bool = False,
    geometry: Literal["prepared", "original", "both"] = "both",
    workers: int | None = None,
) -> Evaluation:
    """The scores of a run, or of an ensemble of runs, patient by patient, as `segtrain evaluate` writes them.

    `settings` that differ from the run's: "evaluate.tta=flips". Raises the errors of `segtrain.errors`.
    """
    _one_of("geometry", geometry, evaluate_command.GEOMETRIES)
    folders = folders_of(runs)
    options: list[str] = ["--checkpoint", str(checkpoint), "--split", os.fspath(split), "--geometry", geometry]
    options += ["--include-training"] if include_training else []
    options += [] if workers is None else ["--workers", str(workers)]
    options += [] if out is None else ["--out", str(Path(out).absolute())]
    return evaluation_in(
        _call(evaluate_command.scored, evaluate_command.parser(), [*map(str, folders), *settings, *options])
    )


@plain_errors
def predict(
    runs: Runs,
    images: PathLike,
    out: PathLike,
    *settings: str,
    checkpoint: str | int = "best",
    layout: str = "auto",
    probabilities: bool = False,
    uncertainty: bool = False,
) -> Path:
    """Predict a folder of patients with a run, or an ensemble of runs, into the new folder `out`, which is returned.

    Raises the errors of `segtrain.errors`; DataError at the end for patients that are broken.
    """
    _one_of("layout", layout, LAYOUTS)
    folder = Path(out).absolute()
    options = ["--images", str(Path(images).absolute()), "--out", str(folder), "--layout", layout]
    options += ["--checkpoint", str(checkpoint)]
    options += ["--probabilities"] if probabilities else []
    options += ["--uncertainty"] if uncertainty else []
    _call(predict_command.command, predict_command.parser(), [*map(str, folders_of(runs)), *settings, *options])
    return folder


@plain_errors
def report(
    runs: Runs,
    out: PathLike,
    *settings: str,
    language: Language = "en",
    baseline: str | None = None,
    atlas: bool = True,
    sort: str = "dsc",
) -> Path:
    """Write one page about runs, or about folders of runs, into the folder `out`; the page is returned.

    Raises the errors of `segtrain.errors`.
    """
    _one_of("sort", sort, SORTS)
    with undisturbed():
        start_logging()
        return make(folders_of(runs), Path(out), language, baseline, [] if atlas else None, settings, sort)


def _call(command: Callable[[Sequence[str]], T], parser: ArgumentParser, argv: Sequence[str]) -> T:
    """What a command returns, without its tables on standard output. Raises ConfigError for what it does not take."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as usage:
        try:
            parser.parse_intermixed_args(list(argv))
        except SystemExit as error:
            reason = usage.getvalue().partition("error: ")[2].strip() or "prints help, and does nothing else"
            raise ConfigError(f"{reason}; see help({parser.prog.replace(' ', '.')})") from error
    with undisturbed(), redirect_stdout(io.StringIO()):
        return command(argv)


def _one_of(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        near = nearest(value, choices)
        hint = f" (did you mean {near}?)" if near else ""
        raise ConfigError(f"{name}={value!r}: no such choice{hint}; give one of {', '.join(choices)}")
