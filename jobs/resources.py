"""Resources of a job: defaults, a preset in configs/clusters/, options on the command line."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from segtrain.config import builtin_config, checked, read_yaml
from segtrain.errors import ConfigError

TIME = r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}"
GPUS = r"([A-Za-z][\w.-]*:)?\d+"
REPORT_MIN = 60  # that the job for the report asks for, unless a run gets less
# Options of sbatch and srun that ask for GPUs, besides those that also ask for other things.
OF_GPUS = re.compile(r"gpus(-per-\w+)?|(cpus|mem|ntasks)-per-gpu|gpu-(bind|freq)|tres-bind|accel-bind")
OF_RESOURCES = ("gres", "tres-per-job", "tres-per-node", "tres-per-socket", "tres-per-task")
# What the step's own srun sets; another value would lose logs or processes.
SET_BY_SEGTRAIN = ("error", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output")
Options = dict[str, str | int | bool]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


def _check_time(time: Any) -> Any:
    if not isinstance(time, str) or not re.fullmatch(TIME, time):
        raise ValueError("write minutes, HH:MM:SS or D-HH:MM:SS (in YAML in quotes)")
    return time


def minutes_of(time: str) -> int:
    """A time limit as SLURM reads it, rounded up to minutes."""
    days, _, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(days) * 1440 + hours * 60 + minutes + (seconds > 0)
    if len(parts) == 3:
        return parts[0] * 60 + parts[1] + (parts[2] > 0)
    return parts[0] + (len(parts) == 2 and parts[1] > 0)


def _check_gpus(gpus: Any) -> int | str:
    if isinstance(gpus, bool) or not re.fullmatch(GPUS, str(gpus)):
        raise ValueError("write a number, or a type and a number such as a100:4")
    return int(gpus) if str(gpus).isdigit() else str(gpus)


def _check_step(options: Any) -> Any:
    for key in SET_BY_SEGTRAIN:
        if isinstance(options, Mapping) and key in options:
            raise ValueError(f"{key} is not for a preset to set; leave it out")
    return options


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Resources:
    """Of one job. None: the cluster's default."""

    nodes: int = Field(default=1, ge=1)
    gpus_per_node: Annotated[int | str, BeforeValidator(_check_gpus)] = 0  # 4, or a type and a number: a100:4
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
    meet_s: int = Field(default=300, ge=1)  # that the nodes get to begin after the first one
    python: str | None = None  # a shell's words: apptainer exec --nv $SCRATCH/image.sif python
    interface: str | None = None  # the network interface at which nodes reach each other: ib0
    host_suffix: str | None = None  # of the first node's name, where the others reach it: -ib0
    data_on_nodes: bool = False  # the login node does not see them
    resubmit: bool = False  # in place of `scontrol requeue`, where that is forbidden
    setup: tuple[str, ...] = ()
    env: dict[Variable, str | int] = field(default_factory=dict)  # of the job's processes
    slurm: Options = field(default_factory=dict)  # other options of sbatch
    srun: Annotated[Options, BeforeValidator(_check_step)] = field(default_factory=dict)  # of the training's step
    report: dict[str, Any] = field(default_factory=dict)  # what is different for the job that makes a report

    @property
    def gpus(self) -> int:
        """GPUs on a node, of any type."""
        return int(str(self.gpus_per_node).rpartition(":")[2])

    @property
    def gpu_type(self) -> str:
        """Their type, "" for any."""
        return str(self.gpus_per_node).rpartition(":")[0]

    @property
    def processes(self) -> int:
        """Processes of torchrun on a node."""
        return self.processes_per_node or max(1, self.gpus)

    @property
    def minutes(self) -> int:
        """The time limit as SLURM reads it, rounded up."""
        return minutes_of(self.time)

    @property
    def for_report(self) -> "Resources":
        """Of the job that makes an ablation's report: one node, no GPU, an hour at most, then as `report` says."""
        tree = asdict(self) | {
            "nodes": 1,
            "gpus_per_node": 0,
            "processes_per_node": None,
            "cpus_per_node": 1,
            "time": str(min(REPORT_MIN, self.minutes)),
            "slurm": _without_gpus(self.slurm),
            "srun": _without_gpus(self.srun),
            "report": {},
        }
        return from_tree({**tree, **self.report}, "report")


def _without_gpus(options: Options) -> Options:
    """The options that ask for no GPUs."""
    others: Options = {}
    for key, value in options.items():
        if key in OF_RESOURCES:
            value = ",".join(part for part in str(value).split(",") if "gpu" not in part)
        if value != "" and not OF_GPUS.fullmatch(key):
            others[key] = value
    return others


HELP = {
    "nodes": "machines, default 1",
    "gpus_per_node": "GPUs on each, a number or a type and a number (a100:4), default none",
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
    "meet_s": "seconds after which a node that has not begun is given up, default 300",
    "python": "what starts Python on the nodes, for example 'apptainer exec --nv image.sif python'",
    "interface": "network interface at which the nodes reach each other, for example ib0",
    "host_suffix": "what to add to the first node's name so that the others reach it, for example -ib0",
    "data_on_nodes": "true: only the nodes see data and weights, do not look for them here",
}
# Options that are repeated, each key=value.
PAIRS = {
    "slurm": (r"[a-z][a-z0-9-]*", "any other option of sbatch"),
    "srun": (r"[a-z][a-z0-9-]*", "any option of the training's srun, for example container-image=pytorch.sqsh"),
    "env": (r"[A-Za-z_]\w*", "a variable of the job's processes, for example NCCL_DEBUG=INFO"),
}


HEEDED_HERE = ("nodes", "gpus_per_node", "processes_per_node", "save_s")  # nodes: there is one
# Options of sbatch that are not left to `slurm`: a job that is submitted again starts after the one before.
OF_SEGTRAIN = {
    "dependency": "use --dependency, or dependency: in the preset",
    "job-name": "a job has the name of its run, name=NAME, or of the spec",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """--cluster, an option for each resource, --slurm, --srun, --env."""
    parser.add_argument("--cluster", metavar="NAME|F", help="a preset: configs/clusters/NAME.yaml, or a file")
    for name, text in HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="X", help=text)
    for name, (_, text) in PAIRS.items():
        parser.add_argument(f"--{name}", action="append", default=[], metavar="key=value", help=f"{text}; repeatable")


def any_given(arguments: argparse.Namespace) -> bool:
    """Whether the command line names a preset or any resource."""
    single = any(getattr(arguments, name) is not None for name in HELP)
    return bool(arguments.cluster) or single or any(getattr(arguments, name) for name in PAIRS)


def refuse_here(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for an option that runs on this machine would not heed; what a preset says is passed over."""
    for name in (*HELP, *PAIRS):
        if name not in HEEDED_HERE and (value := getattr(arguments, name)):
            option, shown = name.replace("_", "-"), value if isinstance(value, str) else value[0]
            raise ConfigError(
                f"--{option} {shown}: is for a cluster, and --executor local trains on this machine as it is; leave "
                "it out"
            )


def of(arguments: argparse.Namespace) -> Resources:
    """The preset of the command line with its options applied. Raises ConfigError."""
    where, tree = _preset(arguments.cluster) if arguments.cluster else ("the options", {})
    for name in HELP:
        if (value := getattr(arguments, name)) is not None:
            tree[name] = value
    for name in PAIRS:
        if texts := getattr(arguments, name):
            tree[name] = {**(tree.get(name) or {}), **dict(_pair(name, text) for text in texts)}
    resources = from_tree(tree, where)
    for options in (resources.slurm, resources.report.get("slurm") or {}):
        for key, remedy in OF_SEGTRAIN.items():
            if key in options:
                raise ConfigError(f"{where}: slurm: {key}={options[key]}: segtrain sets it itself; {remedy}")
    return resources


def from_tree(tree: Any, where: str) -> Resources:
    """Checked resources. Raises ConfigError, naming `where`, the key, the value and the remedy."""
    resources = checked(
        Resources, tree, where, help_text="other options of sbatch go under slurm:, of srun under srun:"
    )
    if resources.report:
        checked(Resources, resources.report, f"{where}: report", help_text="it takes the keys of a preset")
    return resources


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


def _pair(name: str, text: str) -> tuple[str, str | bool]:
    key, equals, value = text.partition("=")
    if not re.fullmatch(PAIRS[name][0], key):
        program = "a variable" if name == "env" else f"an option of {'sbatch' if name == 'slurm' else name}"
        raise ConfigError(f"--{name} {text}: not {program}; write --{name} key=value, or a flag's name")
    return key, value if equals else True
