"""What a queue's YAML asks for: runs, each with its config, its processes and how often it is tried again."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from segtrain.config import Config, checked, flatten, load_config, read_yaml, to_yaml
from segtrain.errors import ConfigError
from segtrain.run import Name, Run, expand

STRICT = ConfigDict(extra="forbid")
OURS = ("logs", "report")  # names beside the runs


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
    """What a queue's YAML says."""

    name: Name
    runs: Annotated[tuple[Entry, ...], Field(min_length=1)]
    overrides: dict[str, Any] = field(default_factory=dict)  # for all runs
    processes: int = Field(default=1, ge=1)  # of torchrun, a run; each has a GPU where there are any
    retries: int = Field(default=1, ge=0)  # further starts of a run that failed
    at_once: int | None = Field(default=None, ge=1)  # runs; default: as many as the GPUs allow, one on a CPU
    min_free_gib: float = Field(default=2.0, ge=0)  # with less the queue saves and stops
    sync: str | None = None  # a folder or an address of fsspec, for example s3://bucket/folder
    sync_every_min: float = Field(default=15.0, gt=0)  # while a run trains; also after each start


@plain_dataclass(frozen=True)
class Item:
    """One run of the queue. `trouble`: why it has no config."""

    name: str
    cfg: Config | None
    processes: int
    retries: int
    trouble: str = ""

    @property
    def run(self) -> Run:
        """Its directory."""
        assert self.cfg is not None, "without a config there is no run"
        return Run(Path(self.cfg.runs_dir) / self.name)

    @property
    def digest(self) -> str:
        """What tells its config, or its trouble, from another; the same on another machine."""
        text = self.trouble if self.cfg is None else to_yaml(replace(self.cfg, runs_dir=""))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@plain_dataclass(frozen=True)
class Plan:
    """A queue: its runs lie in `folder`, `<runs_dir>/<name>`."""

    spec: Spec
    folder: Path
    items: tuple[Item, ...]


def load(path: Path, overrides: Sequence[str] = (), **options: Any) -> Plan:
    """The queue of a file; an ablation's spec is a queue of its runs. `options`: keys of Spec that stand over its own.

    A run whose config cannot be used is an item with its trouble. Raises ConfigError when that is so for all, and for
    what is wrong with the queue itself.
    """
    spec = _spec(path, {key: value for key, value in options.items() if value is not None})
    items = [item for place, entry in enumerate(spec.runs) for item in _items(path, spec, place, entry, overrides)]
    configs = [item.cfg for item in items if item.cfg is not None]
    if not configs:
        raise ConfigError(f"{path}: no run of it can be started; {items[0].name}: {items[0].trouble}")
    folders = {str(Path(cfg.runs_dir).expanduser().absolute()): cfg.name for cfg in configs}
    if len(folders) > 1:
        (one, of_one), (other, of_other) = list(folders.items())[:2]
        raise ConfigError(
            f"{path}: runs_dir is {one} for {of_one} and {other} for {of_other}; a queue has one runs_dir"
        )
    folder = Path(next(iter(folders))) / spec.name
    for item in items:
        if item.name in OURS:
            raise ConfigError(f"{path}: a run's name is {item.name}, as a folder of the queue's; give it another name:")
        if [other.name for other in items].count(item.name) > 1:
            raise ConfigError(f"{path}: two runs are named {item.name}; give one of them another name:")
    return Plan(spec, folder, tuple(_placed(item, folder) for item in items))


def _spec(path: Path, options: Mapping[str, Any]) -> Spec:
    tree = read_yaml(path)
    if isinstance(tree, dict) and "variants" in tree:
        tree = {"name": tree.get("name"), "runs": [{"ablation": path.name}]}
    if isinstance(tree, dict):
        tree |= options
    known = [entry.name for entry in (*fields(Spec), *fields(Entry))]
    spec = checked(Spec, tree, str(path), known, help_text="see configs/offline/ for examples")
    for place, entry in enumerate(spec.runs):
        if (entry.config is None) == (entry.ablation is None):
            raise ConfigError(f"{path}: runs.{place}: needs either config: or ablation:")
        if entry.ablation and entry.name:
            raise ConfigError(f"{path}: runs.{place}: the runs of an ablation are named by it; leave name: out")
    return spec


def _items(path: Path, spec: Spec, place: int, entry: Entry, overrides: Sequence[str]) -> Iterator[Item]:
    processes, retries = entry.processes or spec.processes, spec.retries if entry.retries is None else entry.retries
    given = [*_as_overrides(spec.overrides), *_as_overrides(entry.overrides), *overrides]
    source = path.parent / (entry.config or entry.ablation or "")
    try:
        if entry.ablation:
            for member in expand(source, given)[1]:
                above = str(Path(member.cfg.runs_dir).parent)  # the queue's folder stands for the ablation's
                yield Item(member.cfg.name, replace(member.cfg, runs_dir=above), processes, retries)
            return
        cfg = load_config(source, given)
        yield Item(entry.name or cfg.name, cfg, processes, retries)
    except ConfigError as error:
        name = entry.name or entry.overrides.get("name") or f"{source.stem}-{place + 1}"
        yield Item(str(name), None, processes, retries, str(error))


def _as_overrides(tree: Mapping[str, Any]) -> list[str]:
    """As on the command line. A loss is whole: its weights replace a base's name."""
    leaves = {key: value for key, value in tree.items() if key == "loss"}
    leaves |= dict(flatten({key: value for key, value in tree.items() if key != "loss"}))
    return [f"{key}={json.dumps(value, default=str)}" for key, value in leaves.items()]


def _placed(item: Item, folder: Path) -> Item:
    return item if item.cfg is None else replace(item, cfg=replace(item.cfg, name=item.name, runs_dir=str(folder)))
