"""A queue's YAML, or an ablation's spec, as a queue: runs, each with its config, processes and retries."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from jobs.offline import archive
from jobs.offline.spot import Spot
from jobs.queue.items import Item, Queue
from jobs.queue.journal import FILE as JOURNAL
from jobs.submission import REPORT
from segtrain.config import COMMAND_LINE, checked, config_beside, load_config, read_yaml
from segtrain.config.overrides import values_of
from segtrain.config.paths import expanded
from segtrain.errors import ConfigError
from segtrain.run import Name, expand, layout

STRICT = ConfigDict(extra="forbid")
# Names in a queue's folder, and in its mirror, that are no runs'.
TAKEN = {
    "logs",
    REPORT,
    JOURNAL,
    archive.NAME,
    archive.SUMS,
    layout.ABLATION,
    layout.LOG,
    layout.QUEUE,
    layout.RESULTS,
    layout.STOP,
}


@dataclass(frozen=True, config=STRICT)
class Entry:
    """One of `runs`: a config, or an ablation's spec, relative to the queue's file."""

    config: str | None = None
    ablation: str | None = None
    name: Name | None = None  # of the run; default: its config's
    overrides: dict[str, Any] = field(default_factory=dict)
    processes: int | None = Field(default=None, ge=1)  # default: the queue's
    retries: int | None = Field(default=None, ge=0)


@dataclass(frozen=True, config=STRICT)
class Spec:
    """The content of a queue's YAML."""

    name: Name
    runs: Annotated[tuple[Entry, ...], Field(min_length=1)]
    overrides: dict[str, Any] = field(default_factory=dict)  # for all runs
    processes: int = Field(default=1, ge=1)  # of torchrun, a run; each has a GPU where there are any
    retries: int = Field(default=1, ge=0)  # further starts of a run that failed
    at_once: int | None = Field(default=None, ge=1)  # runs; default: as many as the GPUs allow, one on a CPU
    min_free_gib: float = Field(default=2.0, ge=0)  # with less the queue saves and stops
    sync: str | None = None  # a folder or an address of fsspec, for example s3://bucket/folder
    sync_every_min: float = Field(default=15.0, gt=0)  # while a run trains; also after each start
    spot: Spot | None = None  # the cloud whose notice of reclaim stops the queue: aws, gcp, azure, auto


@plain_dataclass(frozen=True)
class Plan(Queue):
    """A queue whose runs lie in `folder`, `<runs_dir>/<name>`.

    `sync`: the address of its mirror; `spot`: the cloud that may take its machine back.
    """

    sync: str | None = None
    sync_every_min: float = 15.0
    spot: Spot | None = None


def load(path: Path, overrides: Sequence[str] = (), **options: Any) -> Plan:
    """The queue of a file; an ablation's spec is a queue of its runs. `options`: keys of Spec that stand over its own.

    A run whose config cannot be used is an item with its trouble. Raises ConfigError when that is so for all, and for
    what is wrong with the queue itself.
    """
    spec = _spec(path, {key: value for key, value in options.items() if value is not None})
    items = [item for number, entry in enumerate(spec.runs) for item in _items(path, spec, number, entry, overrides)]
    configs = [item.cfg for item in items if item.cfg is not None]
    if not configs:
        raise ConfigError(f"{path}: no run of it can be started; {items[0].name}: {items[0].trouble}")
    folders = {str(expanded(cfg.runs_dir).absolute()): cfg.name for cfg in configs}
    if len(folders) > 1:
        (one, of_one), (other, of_other) = list(folders.items())[:2]
        raise ConfigError(
            f"{path}: runs_dir is {one} for {of_one} and {other} for {of_other}; a queue has one runs_dir"
        )
    folder = Path(next(iter(folders))) / spec.name
    layout.refuse_run(folder, path, "queue")
    for item in items:
        if item.name.casefold() in {name.casefold() for name in TAKEN}:  # there are systems where they are one
            raise ConfigError(f"{path}: a run's name is {item.name}, as a file of the queue's; give it another name:")
        if [other.name for other in items].count(item.name) > 1:
            raise ConfigError(f"{path}: two runs are named {item.name}; give one of them another name:")
    return Plan(
        name=spec.name,
        folder=folder,
        items=tuple(_placed(item, folder) for item in items),
        at_once=spec.at_once,
        min_free_gib=spec.min_free_gib,
        sync=spec.sync,
        sync_every_min=spec.sync_every_min,
        spot=spec.spot,
    )


def _spec(path: Path, options: Mapping[str, Any]) -> Spec:
    tree = read_yaml(path)
    if isinstance(tree, dict) and "variants" in tree:
        tree = {"name": tree.get("name"), "runs": [{"ablation": path.name}]}
    if isinstance(tree, dict):
        tree |= options
    known = [entry.name for entry in (*fields(Spec), *fields(Entry))]
    spec = checked(Spec, tree, str(path), known, help_text="see configs/offline/ for examples")
    for number, entry in enumerate(spec.runs):
        if (entry.config is None) == (entry.ablation is None):
            raise ConfigError(f"{path}: runs.{number}: needs either config: or ablation:")
        if entry.ablation and entry.name:
            raise ConfigError(f"{path}: runs.{number}: the runs of an ablation are named by it; leave name: out")
    return spec


def _items(path: Path, spec: Spec, number: int, entry: Entry, overrides: Sequence[str]) -> Iterator[Item]:
    processes = entry.processes or spec.processes
    retries = spec.retries if entry.retries is None else entry.retries
    settings = [*_as_overrides(spec.overrides), *_as_overrides(entry.overrides), *overrides]
    source = path.parent / (entry.config or entry.ablation or "")
    origin = f"{path}, runs.{number}" + (f", or {COMMAND_LINE}" if overrides else "")
    try:
        if entry.ablation:
            for member in expand(source, settings, origin)[1]:
                above = str(Path(member.cfg.runs_dir).parent)  # the queue's folder stands for the ablation's
                yield Item(member.cfg.name, replace(member.cfg, runs_dir=above), processes, retries)
            return
        source = config_beside(path.parent, entry.config or "")
        cfg = load_config(source, settings, overrides_from=origin, parts_beside=path.parent)
        yield Item(entry.name or cfg.name, cfg, processes, retries)
    except ConfigError as error:
        name = str(entry.name or entry.overrides.get("name") or f"{source.stem}-{number + 1}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):  # it may lead out of the queue's folder
            name = f"run-{number + 1}"
        yield Item(name, None, processes, retries, trouble=str(error))


def _as_overrides(tree: Mapping[str, Any]) -> list[str]:
    """As on the command line; a mapping that is a value stands whole, in place of a base's, as in an ablation."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in values_of(tree)]


def _placed(item: Item, folder: Path) -> Item:
    return item if item.cfg is None else replace(item, cfg=replace(item.cfg, name=item.name, runs_dir=str(folder)))
