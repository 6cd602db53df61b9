"""Resources of a job: defaults, a preset in configs/clusters/, options on the command line."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from segtrain.config import builtin_config, checked, read_yaml
from segtrain.errors import ConfigError

TIME = r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}"


def _check_time(time: Any) -> Any:
    if not isinstance(time, str) or not re.fullmatch(TIME, time):
        raise ValueError("write minutes, HH:MM:SS or D-HH:MM:SS (in YAML in quotes)")
    return time


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Resources:
    """Of one job. None: the cluster's default."""

    nodes: int = Field(default=1, ge=1)
    gpus_per_node: int = Field(default=0, ge=0)
    processes_per_node: int | None = Field(default=None, ge=1)
    cpus_per_node: int | None = Field(default=None, ge=1)
    mem: str | None = None
    time: Annotated[str, BeforeValidator(_check_time)] = "1-00:00:00"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    dependency: str | None = None
    comment: str | None = None
    warn_s: int = Field(default=120, ge=1)
    save_s: int = Field(default=60, ge=1)
    setup: tuple[str, ...] = ()
    slurm: dict[str, str | int | bool] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Processes of torchrun on a node."""
        return self.processes_per_node or max(1, self.gpus_per_node)

    @property
    def minutes(self) -> int:
        """The time limit as SLURM reads it, rounded up."""
        days, _, rest = self.time.rpartition("-")
        parts = [int(part) for part in rest.split(":")]
        if days:  # days-hours[:minutes[:seconds]]
            hours, minutes, seconds = (*parts, 0, 0)[:3]
            return int(days) * 1440 + hours * 60 + minutes + (seconds > 0)
        if len(parts) == 3:
            return parts[0] * 60 + parts[1] + (parts[2] > 0)
        return parts[0] + (len(parts) == 2 and parts[1] > 0)


HELP = {
    "nodes": "machines, default 1",
    "gpus_per_node": "GPUs on each, default none",
    "processes_per_node": "processes on each, default: one a GPU, else one",
    "cpus_per_node": "CPUs on each",
    "mem": "memory on each, for example 64G",
    "time": "limit: minutes, HH:MM:SS or D-HH:MM:SS; default a day, after which the job comes back",
    "partition": "partition",
    "account": "account",
    "qos": "quality of service",
    "constraint": "features that nodes must have",
    "mail_user": "who gets mail",
    "mail_type": "about what, for example FAIL,END",
    "dependency": "for example afterok:123",
    "comment": "for the accounting",
    "warn_s": "seconds before the limit at which the training saves and leaves, default 120",
    "save_s": "seconds that a save may take before it is cut off, default 60",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """--cluster, an option for each resource, --slurm."""
    parser.add_argument("--cluster", metavar="NAME|F", help="a preset: configs/clusters/NAME.yaml, or a file")
    for name, text in HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="X", help=text)
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="key=value", help="any other option of sbatch; repeatable"
    )


def any_given(arguments: argparse.Namespace) -> bool:
    """Whether the command line names a preset or any resource."""
    return bool(arguments.cluster or arguments.slurm) or any(getattr(arguments, name) is not None for name in HELP)


def of(arguments: argparse.Namespace) -> Resources:
    """The preset of the command line with its options applied. Raises ConfigError."""
    where, tree = _preset(arguments.cluster) if arguments.cluster else ("the options", {})
    for name in HELP:
        if (value := getattr(arguments, name)) is not None:
            tree[name] = value
    tree["slurm"] = {**tree.get("slurm", {}), **dict(_pair(text) for text in arguments.slurm)}
    return from_tree(tree, where)


def from_tree(tree: Any, where: str) -> Resources:
    """Checked resources. Raises ConfigError, naming `where`, the key, the value and the remedy."""
    return checked(Resources, tree, where, help_text="other options of sbatch go under slurm:")


def to_tree(resources: Resources) -> dict[str, Any]:
    """The resources as `from_tree` reads them back."""
    return asdict(resources)


def presets() -> Sequence[Path]:
    """The presets that come with the project."""
    return sorted(builtin_config("clusters/cpu.yaml").parent.glob("*.yaml"))


def _preset(name: str) -> tuple[str, dict[str, Any]]:
    path = Path(name) if name.endswith(".yaml") else builtin_config(f"clusters/{name}.yaml")
    if not path.is_file():
        names = ", ".join(preset.stem for preset in presets())
        raise ConfigError(f"--cluster {name}: no such preset; there are {names}, or name a .yaml file")
    return str(path), read_yaml(path)


def _pair(text: str) -> tuple[str, str | bool]:
    key, equals, value = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
        raise ConfigError(f"--slurm {text}: not an option of sbatch; write --slurm key=value, or a flag's name")
    return key, value if equals else True
