"""What the variants of an ablation need, files and packages, that is not there. Imports no torch."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain.config import SMP_PREFIX, name_of
from segtrain.config.paths import is_file
from segtrain.run.ablation import Member


def missing(
    members: Sequence[Member], packages: bool = True, is_there: Callable[[Path], bool] = is_file
) -> dict[str, str]:
    """The variants that need a file or a package that is missing, each with its remedy; no package is imported.

    packages: whether they are looked for (another Python may train the runs); is_there: whether a file will be there
    then. A run that has begun needs no file of weights, a finished one needs nothing.
    """
    problems: dict[str, str] = {}
    for member in members:
        if member.run.result().state in ("finished", "unreadable"):  # the latter is reported before its training
            continue
        model = member.cfg.model
        has_weights = member.run.saved_step() > 0
        if model.weights is not None and not has_weights and not is_there(Path(model.weights)):
            problems[member.variant] = f"model.weights={model.weights}: there is no such file; name an existing one"
        network = name_of(model.name)
        for needed, setting, package in (
            (network.startswith(SMP_PREFIX), f"model.name={network}", "segmentation-models-pytorch"),
            (member.cfg.engine == "deepspeed", "engine=deepspeed", "deepspeed"),
        ):
            if packages and needed and importlib.util.find_spec(package.replace("-", "_")) is None:
                problems[member.variant] = f"{setting} needs {package}, which is not installed; pip install {package}"
    return problems
