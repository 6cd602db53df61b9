"""Ablations: a base config, named variants, folds and seeds; each combination is a run with a stable name.

A spec gives the same runs anywhere: here one after another, or as an array on a cluster. Imports no torch.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from segtrain.config import (
    COMMAND_LINE,
    Config,
    checked,
    config_beside,
    flatten,
    from_tree,
    load_config,
    merge,
    read_yaml,
)
from segtrain.config.own_parts import portable
from segtrain.errors import DAMAGED, ConfigError, RunError
from segtrain.run.index import COLUMNS, OF_SEVERAL
from segtrain.run.layout import RESULTS
from segtrain.run.writer import Run
from segtrain.runtime import files
from segtrain.runtime.cells import csv_text
from segtrain.runtime.outbox import patiently

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]  # part of a folder's name
MOST_RUNS = 2000  # of an ablation
Numbers = tuple[Annotated[int, Field(ge=0)], ...]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ConfirmSpec:
    """What a confirmation does otherwise than its search."""

    folds: Numbers = ()  # none: all that the search leaves
    seeds: Numbers = ()  # none, and no repeats: those of the search
    repeats: Annotated[int, Field(ge=1, le=MOST_RUNS)] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)  # for both variants, over the search's


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Spec:
    """The content of an ablation's YAML. The first variant is the baseline."""

    name: Name
    base: str  # a config, relative to the spec, or the name of a packaged one
    variants: dict[Name, dict[str, Any] | None]  # key: value, as overrides; a key may be dotted
    overrides: dict[str, Any] = field(default_factory=dict)  # for all variants
    folds: Numbers = ()  # none: the base's split
    seeds: Numbers = ()  # none: the base's seed
    repeats: Annotated[int, Field(ge=1, le=MOST_RUNS)] | None = (
        None  # in place of seeds: trainings of each variant on each fold
    )
    confirm: ConfirmSpec | None = None  # of the best variant, on folds that took no part in choosing it


@dataclass(frozen=True)
class Place:
    """The place of a run in the grid of a spec; None: the spec leaves it to the base."""

    variant: str
    fold: int | None
    seed: int | None
    repeat: int | None


@dataclass(frozen=True)
class Member:
    """One run of an ablation."""

    variant: str
    fold: int | None
    seed: int
    cfg: Config
    repeat: int | None = None

    @property
    def run(self) -> Run:
        return Run.of(self.cfg)

    def finished(self) -> bool:
        """Whether it is finished, as far as its directory can be read."""
        try:
            return bool(self.run.finished(self.cfg))
        except (RunError, *DAMAGED):
            return False


def expand(path: Path, overrides: list[str], overrides_from: str = COMMAND_LINE) -> tuple[Spec, list[Member]]:
    """The spec in a file and its runs, seed by seed, fold by fold, so that the first runs compare all variants.

    Runs are named `<variant>-fold<k>-seed<s>`, or `<variant>-fold<k>-repeat<r>`, in `<runs_dir>/<name of the spec>/`.
    `overrides` apply to all of them; errors in them name `overrides_from`. Raises ConfigError: unreadable, or a
    variant, fold or seed that is wrong or listed twice.
    """
    spec = checked(Spec, read_yaml(path), str(path), help_text="see configs/ablation/ for examples")
    return spec, members_of(path, spec, overrides, overrides_from)


def members_of(path: Path, spec: Spec, overrides: list[str], overrides_from: str = COMMAND_LINE) -> list[Member]:
    """The runs of a spec, which `path` holds or gave rise to. Raises ConfigError, as `expand` does."""
    if not spec.variants:
        raise ConfigError(f"{path}: variants: there is none; name at least one")
    numbers = {"folds": spec.folds, "seeds": spec.seeds}
    if spec.confirm:
        numbers |= {"confirm.folds": spec.confirm.folds, "confirm.seeds": spec.confirm.seeds}
    for key, values in numbers.items():
        if doubled := sorted({value for value in values if values.count(value) > 1}):
            raise ConfigError(f"{path}: {key}: {doubled[0]} is listed twice; list it once")
    for part in (spec, spec.confirm):
        if part and part.seeds and part.repeats:
            raise ConfigError(f"{path}: has seeds and repeats; leave one out (repeats derives seeds from the base's)")
    if spec.confirm and (seen := sorted({*spec.folds} & {*spec.confirm.folds})):
        raise ConfigError(f"{path}: confirm.folds: fold {seen[0]} is one of the search's; take it off one of the lists")
    in_all = len(spec.variants) * len(spec.folds or [0]) * len(spec.seeds or [0]) * (spec.repeats or 1)
    if in_all > MOST_RUNS:
        raise ConfigError(f"{path}: is {in_all} runs, but {MOST_RUNS} is the most; take fewer repeats, seeds or folds")
    _refuse_ignored_keys(path, spec, overrides, overrides_from)
    members = list(_members(path, spec, overrides, overrides_from))
    _refuse_twins(path, members)
    _refuse_trials(path, members)
    return members


def _refuse_trials(path: Path, members: list[Member]) -> None:
    """Raise ConfigError for settings that each run would choose by a trial of its own."""
    if any(member.cfg.precision == "auto" for member in members):
        raise ConfigError(f"{path}: precision=auto may choose otherwise for each run; name fp32, bf16 or fp16")
    if any(member.cfg.model.compile == "auto" for member in members):
        raise ConfigError(f"{path}: model.compile=auto may choose otherwise for each run; say true or false")


def seed_of_repeat(seed: int, fold: int | None, repeat: int) -> int:
    """The seed of one training of each variant: a function of these three numbers, the same in all versions.

    Variants share it, so that they draw the same slices in the same order; folds do not.
    """
    digest = hashlib.sha256(json.dumps([seed, fold, repeat]).encode()).digest()
    return int.from_bytes(digest[:4], "big")  # short enough to be read


def confirmation_name(search: str) -> str:
    """The name of a search's confirmation."""
    return f"{search}-confirm"


def confirmation(
    path: Path, spec: Spec, folds: Sequence[int], variants: Sequence[str], overrides: list[str], more: Mapping[str, Any]
) -> tuple[Spec, list[Member]]:
    """The spec of a search as that of its confirmation, and its runs: these variants on these folds.

    It has its own name, and so its own folder and report. `more`: settings of both variants, over all the spec's.
    Raises ConfigError.
    """
    own = spec.confirm or ConfirmSpec()
    as_search = not own.seeds and own.repeats is None
    new = replace(
        spec,
        name=confirmation_name(spec.name),
        variants={name: spec.variants[name] for name in variants},
        folds=tuple(folds),
        seeds=spec.seeds if as_search else own.seeds,
        repeats=spec.repeats if as_search else own.repeats,
    )
    return new, list(_members(path, new, overrides, COMMAND_LINE, (own.overrides, more)))


def _members(
    path: Path, spec: Spec, overrides: list[str], overrides_from: str, more: Sequence[Mapping[str, Any]] = ()
) -> Iterator[Member]:
    repeats = range(1, spec.repeats + 1) if spec.repeats else (None,)
    for repeat in repeats:
        for seed in spec.seeds or (None,):
            for fold in spec.folds or (None,):
                for variant in spec.variants:
                    place = Place(variant, fold, seed, repeat)
                    cfg = _config_of(path, spec, (overrides, overrides_from), place, more)
                    yield Member(variant, fold, cfg.seed, cfg, repeat)


def _config_of(
    path: Path, spec: Spec, overrides: tuple[list[str], str], place: Place, more: Sequence[Mapping[str, Any]]
) -> Config:
    """The base's config, changed by the spec, `more`, the variant, `overrides` (with their origin), fold and seed."""
    where = f"{path}: variant {place.variant}"
    try:
        base = config_beside(path.parent, spec.base)
        tree = read_yaml(base)
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from error
    for layer in (spec.overrides, *more, spec.variants[place.variant] or {}):
        merge(tree, layer, where)
    if place.fold is not None:  # before the config is checked: what the base has for folds is of this split
        merge(tree, {"data.split": "kfold", "data.fold": place.fold}, where)
    settings, origin = overrides
    cfg = load_config(base, settings, tree=tree, where=where, overrides_from=origin, parts_beside=path.parent)
    own: dict[str, Any] = {"runs_dir": str(Path(cfg.runs_dir) / spec.name)}
    name = place.variant
    if place.fold is not None:
        name += f"-fold{place.fold}"
    if place.repeat is not None:
        own |= {"seed": seed_of_repeat(cfg.seed, place.fold, place.repeat), "name": f"{name}-repeat{place.repeat}"}
    else:
        seed = cfg.seed if place.seed is None else place.seed
        own |= {"seed": seed, "name": f"{name}-seed{seed}"}
    whole = asdict(cfg)
    merge(whole, own, where)
    return from_tree(whole, where)


def _refuse_ignored_keys(path: Path, spec: Spec, overrides: list[str], overrides_from: str) -> None:
    """Refuse keys that folds, seeds and the names of runs set."""
    taken = {"name"} | ({"seed"} if spec.seeds else set()) | ({"data.split", "data.fold"} if spec.folds else set())
    of_ablation = {"runs_dir"} | ({"seed"} if spec.repeats else set())  # one value for all variants
    settings: list[tuple[str, list[tuple[str, Any]]]] = []
    for override in overrides:
        key, _, value = override.partition("=")
        settings.append((overrides_from, [(key, value)]))
    settings.append(("overrides", list(flatten(spec.overrides))))
    if spec.confirm:
        settings.append(("confirm.overrides", list(flatten(spec.confirm.overrides))))
    settings += [(f"variant {name}", list(flatten(changes or {}))) for name, changes in spec.variants.items()]
    for where, pairs in settings:
        keys = [key for key, value in pairs if (key, value) != ("data.split", "kfold")]  # as the folds set it
        of_all = of_ablation if where.startswith("variant") else set()
        if both := [key for key in keys if key in taken or key in of_all]:
            raise ConfigError(f"{path}: {where} sets {both[0]}, which folds, seeds and names set; leave it out")


def _refuse_twins(path: Path, members: list[Member]) -> None:
    """Refuse two variants that are the same training: each would be compared with itself."""
    first = members[0]
    variants = [member for member in members if (member.fold, member.seed) == (first.fold, first.seed)]
    for one, other in combinations(variants, 2):
        if replace(one.cfg, name=other.cfg.name) == other.cfg:
            raise ConfigError(f"{path}: variants {one.variant} and {other.variant} are the same training; drop one")


def write_results(members: Sequence[Member]) -> Path:
    """Write results.csv beside the runs, a line each, also for those that have not begun; returns its path."""
    rows = []
    for member in members:
        about = {"run": member.cfg.name, "variant": member.variant, "fold": member.fold, "seed": member.seed}
        about["repeat"] = member.repeat
        rows.append(about | asdict(member.run.result()))
    assert tuple(rows[0]) == COLUMNS
    unused = {name for name in OF_SEVERAL if all(row[name] is None for row in rows)}
    rows = [{name: value for name, value in row.items() if name not in unused} for row in rows]
    table = members[0].run.root.with_name(RESULTS)
    patiently(table, partial(files.write_text, table, csv_text(rows)))
    return table


def differences(member: Member, baseline: Member) -> Mapping[str, Any]:
    """The keys in which a member's config differs from that of the baseline, with the member's values."""
    own, theirs = (dict(flatten(asdict(portable(one.cfg)))) for one in (member, baseline))
    keys = [key for key in own if key not in ("name", "seed", "data.fold") and own[key] != theirs.get(key)]
    # The hashes of a part's files say more only where the part has the same name.
    named = [key for key in keys if not key.startswith("code.")]
    return {key: own[key] for key in named or keys}
