"""The partitions of the cluster, and the demands of a job that they cannot meet, by scontrol and sinfo."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jobs import scheduler
from jobs.resources import Resources, minutes_of

UNITS_MB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}  # of --mem; a bare number is of megabytes
UNUSABLE = re.compile(r"down|drain|drng|fail|maint|resv|unk|boot|plnd")  # states of a node that may pass


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike. `gpus`: by type, "" where they have none."""

    count: int
    cpus: int
    memory_mb: int
    gpus: dict[str, int]
    features: frozenset[str]
    usable: bool  # now

    def gpus_of(self, gpu_type: str) -> int:
        """GPUs of that type on such a node, of any for ""."""
        return self.gpus.get(gpu_type, 0) if gpu_type else sum(self.gpus.values())

    def has(self, resources: Resources) -> bool:
        """Whether such a node has all that is asked of one."""
        return (
            self.gpus_of(resources.gpu_type) >= resources.gpus
            and self.cpus >= (resources.cpus_per_node or 0)
            and self.memory_mb >= megabytes(resources.mem)
        )


@dataclass(frozen=True)
class Partition:
    """What one partition gives a job; None: no limit."""

    name: str
    default: bool
    minutes: int | None
    nodes: int | None
    memory_mb: int | None
    kinds: Sequence[NodeKind] = field(default=())

    def problem(self, resources: Resources) -> str | None:
        """The first demand that it can never meet, with the remedy."""
        kinds = [kind for kind in self.kinds if _has_features(kind, resources.constraint)]
        demands = [*self._limits(resources, kinds), *(self._sizes(resources, kinds) if kinds else ())]
        return next(iter(demands), None)

    def _limits(self, resources: Resources, kinds: Sequence[NodeKind]) -> Iterator[str]:
        """Of what a job gets as a whole."""
        if self.minutes is not None and resources.minutes > self.minutes:
            most = _time(self.minutes)
            remedy = f"set time to {most}, the job comes back until it is done"
            yield f"time={resources.time}: partition {self.name} gives {most} at most; {remedy}"
        most_nodes = min(sum(kind.count for kind in kinds), self.nodes or 10**9)
        if kinds and resources.nodes > most_nodes:
            yield f"nodes={resources.nodes}: partition {self.name} gives a job {most_nodes} at most; ask for fewer"

    def _sizes(self, resources: Resources, kinds: Sequence[NodeKind]) -> Iterator[str]:
        """Of what one node has."""
        nodes = f"nodes of partition {self.name} have"
        gpus = max(kind.gpus_of(resources.gpu_type) for kind in kinds)
        if resources.gpus > gpus:
            types = sorted({name for kind in kinds for name in kind.gpus if name})
            of_types = f" (types: {', '.join(types)})" if types else ""
            remedy = "change gpus_per_node or the partition"
            yield f"gpus_per_node={resources.gpus_per_node}: {nodes} {gpus} at most{of_types}; {remedy}"
        if (resources.cpus_per_node or 0) > (cpus := max(kind.cpus for kind in kinds)):
            yield f"cpus_per_node={resources.cpus_per_node}: {nodes} {cpus} at most; ask for fewer"
        memory_mb = min(max(kind.memory_mb for kind in kinds), self.memory_mb or 10**12)
        if megabytes(resources.mem) > memory_mb:
            yield f"mem={resources.mem}: {nodes} {memory_mb}M to give at most; ask for less"
        fitting = sum(kind.count for kind in kinds if kind.has(resources))
        if fitting < resources.nodes:
            keys = ("nodes", "gpus_per_node", "cpus_per_node", "mem")
            demands = " with ".join(f"{key}={value}" for key in keys if (value := getattr(resources, key)))
            yield f"{demands}: {nodes} all of it on {fitting}; ask for less on a node"


def partitions() -> list[Partition]:
    """All of the cluster, without their nodes; none where SLURM does not answer."""
    of_cluster = []
    for line in _lines("scontrol", "show", "partition", "-o"):
        pairs = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" in pairs:
            of_cluster.append(
                Partition(
                    pairs["PartitionName"],
                    pairs.get("Default") == "YES",
                    _limit(pairs.get("MaxTime", "")),
                    _number(pairs.get("MaxNodes", "")),
                    _number(pairs.get("MaxMemPerNode", "")),
                )
            )
    return of_cluster


def kinds(partition: str) -> list[NodeKind]:
    """The nodes of a partition."""
    lines = _lines("sinfo", "-h", "-e", "-p", partition, "-o", "%D|%c|%m|%G|%f|%t")
    return [kind for line in lines if (kind := _kind(line.split("|")))]


def megabytes(mem: str | None) -> float:
    """An amount of memory as sbatch reads it; 0 where none is named, or it cannot be read."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", (mem or "0").upper())
    return float(match[1]) * UNITS_MB[match[2] or "M"] if match else 0.0


def _kind(fields: Sequence[str]) -> NodeKind | None:
    if len(fields) != 6 or not fields[0].isdigit():
        return None
    count, cpus, memory, gres, features, state = fields
    gpus: dict[str, int] = {}
    for type_, number in re.findall(r"\bgpu(?::([A-Za-z][\w.-]*))?:(\d+)", gres):
        gpus[type_] = gpus.get(type_, 0) + int(number)
    names = frozenset(features.split(",")) if features != "(null)" else frozenset()
    return NodeKind(int(count), _leading(cpus), _leading(memory), gpus, names, not UNUSABLE.search(state))


def _has_features(kind: NodeKind, constraint: str | None) -> bool:
    """Whether such a node has the one feature; an expression over features is left to sbatch."""
    return constraint is None or not re.fullmatch(r"[\w.-]+", constraint) or constraint in kind.features


def _limit(time: str) -> int | None:
    return minutes_of(time) if re.match(r"\d", time) else None


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _leading(text: str) -> int:
    """Of "64" or "64+" the number."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _time(minutes: int) -> str:
    days, rest = divmod(minutes, 1440)
    return f"{days}-{rest // 60:02d}:{rest % 60:02d}:00" if days else f"{rest // 60}:{rest % 60:02d}:00"


def _lines(*command: str) -> list[str]:
    done = scheduler.run(*command)
    return done.stdout.splitlines() if done.returncode == 0 else []
