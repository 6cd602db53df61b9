"""Ablations: a base config, named variants, folds and seeds; each combination is a run with a stable name.

The same runs come of the same spec anywhere: here one after another, or as an array on a cluster. Imports no torch.
"""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from segtrain.config import Config, flatten, from_tree, load_config, merge, read_yaml
from segtrain.errors import DAMAGED, ConfigError, RunError
from segtrain.run.writer import Run

log = logging.getLogger(__name__)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
COLUMNS = (
    "run", "variant", "fold", "seed", "state", "epochs", "best_epoch", "best_dsc", "ci_low", "ci_high", "n", "last_dsc",
    "hours",
)  # fmt: skip


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Spec:
    """What an ablation's YAML says. The first variant is the baseline."""

    name: Name
    base: str  # a config, relative to the spec
    variants: dict[Name, dict[str, Any] | None]  # key: value, as overrides; a key may be dotted
    overrides: dict[str, Any] = field(default_factory=dict)  # for all variants
    folds: tuple[Annotated[int, Field(ge=0)], ...] = ()  # none: the base's split
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()  # none: the base's seed


@dataclass(frozen=True)
class Member:
    """One run of an ablation."""

    variant: str
    fold: int | None
    seed: int
    cfg: Config

    @property
    def run(self) -> Run:
        return Run(Path(self.cfg.runs_dir).expanduser() / self.cfg.name)

    def row(self) -> dict[str, Any]:
        """Its line in the table of results; a directory that cannot be read does not cost the others theirs."""
        found: dict[str, Any] = {
            "run": self.cfg.name, "variant": self.variant, "fold": self.fold, "seed": self.seed,
        }  # fmt: skip
        try:
            found |= self.run.result()
        except DAMAGED as error:
            log.warning("%s: cannot be read (%s: %s)", self.run.root, type(error).__name__, error)
            found |= {"state": "unreadable"}
        return {column: found.get(column) for column in COLUMNS}

    def finished(self) -> bool:
        """Whether it is finished, as far as its directory can be read."""
        try:
            return bool(self.run.finished(self.cfg))
        except (RunError, *DAMAGED):
            return False


def expand(path: Path, overrides: list[str]) -> tuple[Spec, list[Member]]:
    """The spec of that file and its runs, seed by seed, fold by fold, so that the first runs compare all variants.

    Runs are named `<variant>-fold<k>-seed<s>` in `<runs_dir>/<name of the spec>/`. `overrides` hold for all of them.
    Raises ConfigError: unreadable, a bad or doubled variant, fold or seed.
    """
    try:
        spec = TypeAdapter(Spec).validate_python(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {key or 'the spec'}: {first['msg']}; see configs/ablation/ for examples") from error
    if not spec.variants:
        raise ConfigError(f"{path}: variants: there is none; name at least one")
    for what, given in (("folds", spec.folds), ("seeds", spec.seeds)):
        if doubled := sorted({value for value in given if given.count(value) > 1}):
            raise ConfigError(f"{path}: {what}: {doubled[0]} stands there twice; name each once")
    _refuse_what_would_be_ignored(path, spec, overrides)
    members = list(_members(path, spec, overrides))
    _refuse_twins(path, members)
    return spec, members


def _members(path: Path, spec: Spec, overrides: list[str]) -> Iterator[Member]:
    base = path.parent / spec.base
    for seed in spec.seeds or (None,):
        for fold in spec.folds or (None,):
            for variant, changes in spec.variants.items():
                tree = read_yaml(base)
                where = f"{path}: variant {variant}"
                own: dict[str, Any] = {} if seed is None else {"seed": seed}
                own |= {} if fold is None else {"data.split": "kfold", "data.fold": fold}
                for layer in (spec.overrides, changes or {}):
                    merge(tree, layer, where)
                cfg = load_config(base, overrides, tree=tree, where=where)
                of_fold = [] if fold is None else [f"fold{fold}"]
                name = "-".join([variant, *of_fold, f"seed{cfg.seed if seed is None else seed}"])
                named = {"name": name, "runs_dir": str(Path(cfg.runs_dir) / spec.name)}
                whole = asdict(cfg)
                merge(whole, own | named, where)
                made = from_tree(whole, where)
                yield Member(variant, fold, made.seed, made)


def _refuse_what_would_be_ignored(path: Path, spec: Spec, overrides: list[str]) -> None:
    """Keys that folds, seeds and the names of runs set."""
    taken = {"name"} | ({"seed"} if spec.seeds else set()) | ({"data.split", "data.fold"} if spec.folds else set())
    given: list[tuple[str, list[tuple[str, Any]]]] = []
    for override in overrides:
        key, _, value = override.partition("=")
        given.append(("the command line", [(key, value)]))
    given.append(("overrides", list(flatten(spec.overrides))))
    given += [(f"variant {name}", list(flatten(changes or {}))) for name, changes in spec.variants.items()]
    for where, pairs in given:
        keys = [key for key, value in pairs if (key, value) != ("data.split", "kfold")]  # as the folds set it
        if both := [key for key in keys if key in taken or (key == "runs_dir" and where.startswith("variant"))]:
            raise ConfigError(f"{path}: {where} sets {both[0]}, which folds, seeds and names set; leave it out")


def _refuse_twins(path: Path, members: list[Member]) -> None:
    """Two variants that are the same training would be compared with themselves."""
    for one, other in combinations([m for m in members if (m.fold, m.seed) == (members[0].fold, members[0].seed)], 2):
        if replace(one.cfg, name=other.cfg.name) == other.cfg:
            raise ConfigError(f"{path}: variants {one.variant} and {other.variant} are the same training; drop one")


def missing(members: Sequence[Member]) -> dict[str, str]:
    """Variants that need a file or a package that is not there, each with its remedy; nothing is imported for it.

    A run that has begun needs no file of weights, a finished one nothing.
    """
    found: dict[str, str] = {}
    for member in members:
        if member.row()["state"] in ("finished", "unreadable"):  # the latter is told of where it is to be trained
            continue
        model, begun = member.cfg.model, member.run.saved_step() > 0
        if model.weights is not None and not begun and not Path(model.weights).is_file():
            found[member.variant] = f"model.weights={model.weights}: there is no such file; name an existing one"
        for needed, what, package in (
            (model.name.startswith("smp:"), f"model.name={model.name}", "segmentation-models-pytorch"),
            (member.cfg.engine == "deepspeed", "engine=deepspeed", "deepspeed"),
        ):
            if needed and importlib.util.find_spec(package.replace("-", "_")) is None:
                found[member.variant] = f"{what} needs {package}, which is not installed; pip install {package}"
    return found


def differences(member: Member, baseline: Member) -> Mapping[str, Any]:
    """The keys in which a member's config differs from that of the baseline, with the member's values."""
    own, theirs = dict(flatten(asdict(member.cfg))), dict(flatten(asdict(baseline.cfg)))
    keys = [key for key in own if key not in ("name", "seed", "data.fold") and own[key] != theirs.get(key)]
    return {key: own[key] for key in keys}
