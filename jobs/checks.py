"""Checks of a job before it is submitted, so that a mistake costs no wait in the queue. Nothing is written."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jobs import partitions, sbatch
from jobs.resources import Resources
from segtrain.config import Config, DataConfig, nearest
from segtrain.config.paths import expanded, is_file
from segtrain.data.order import Order
from segtrain.data.sources import make_source, with_layout
from segtrain.errors import ConfigError, DataError, LaunchError
from segtrain.run import Member, missing

TIMEOUT_S = 60
# What sbatch answers where no node is up that could take the job, and also where there is no such node.
NO_NODE = "Requested node configuration is not available"
# Unrecognized option '--x=1'; option '--x' is ambiguous, or requires an argument.
NO_OPTION = re.compile(r"option '--([\w-]+)")
# Answers that say nothing of the job.
UNANSWERED = re.compile(r"Unable to contact|timed out|Connection refused|temporarily unable|'--test-only'", re.I)


def check(configs: Sequence[Config], resources: Resources, script: str) -> list[str]:
    """Warnings about jobs that train these runs with these resources, each by that script.

    Raises ConfigError, DataError or LaunchError: what would fail, or wait in the queue forever.
    """
    warnings = list(_check_times(resources))
    for cfg in _distinct(configs):
        warnings += check_run(cfg, resources)
    _check_step_options(resources)
    warnings += _check_partitions(resources)
    warnings += _ask_sbatch(script, resources)
    return list(dict.fromkeys(warnings))


def check_run(cfg: Config, resources: Resources) -> list[str]:
    """The warnings about one run. Raises ConfigError, DataError or LaunchError."""
    _check_processes(cfg, resources)
    member = Member(cfg.name, None, cfg.seed, cfg)
    warnings = list(_check_data(cfg.data, resources))
    if cfg.model.weights and member.run.saved_step() == 0:
        warnings += _unseen("model.weights", cfg.model.weights, resources)
    _check_share(cfg, resources)
    for problem in missing_on_nodes([member], resources).values():
        raise ConfigError(problem)
    return warnings


def missing_on_nodes(members: Sequence[Member], resources: Resources) -> dict[str, str]:
    """What `missing` finds, as far as this machine can tell what the nodes see."""

    def is_there(path: Path) -> bool:
        return resources.data_on_nodes or is_file(path) or not _top(path).exists()

    problems = missing(members, packages=resources.python is None, is_there=is_there)
    remedy = ", or, if only the nodes see it, add --data-on-nodes true"
    return {name: why + remedy * why.startswith("model.weights=") for name, why in problems.items()}


def _distinct(configs: Sequence[Config]) -> list[Config]:
    """Configs that differ in what is checked here."""
    alike = {
        (repr(replace(cfg.data, fold=0)), cfg.train.global_batch, cfg.device, cfg.model.weights): cfg
        for cfg in reversed(configs)
    }
    return list(alike.values())[::-1]


def _check_times(resources: Resources) -> Iterator[str]:
    if resources.warn_s >= resources.minutes * 60:
        raise ConfigError(
            f"warn_s={resources.warn_s}: the job gets {resources.minutes * 60} s (time={resources.time}), so that it "
            "would be told to save at its very start; use a smaller warn_s or more time"
        )
    if resources.save_s > resources.warn_s:
        yield (
            f"save_s={resources.save_s}: at the time limit the job ends {resources.warn_s} s (warn_s) after it "
            "was told to save, before such a save is over; a larger warn_s avoids that"
        )


def _check_processes(cfg: Config, resources: Resources) -> None:
    """Refuse more ranks than GPUs, and what needs a GPU without one."""
    asks_elsewhere = {"gres", "gpus", "gpus-per-task", "gpus-per-node"} & resources.slurm.keys()
    gpus = resources.gpus
    if gpus and cfg.device != "cpu" and resources.processes > gpus:
        raise LaunchError(
            f"processes_per_node={resources.processes}: a node has {gpus} GPUs (gpus_per_node="
            f"{resources.gpus_per_node}), and each process needs its own; use {gpus}, or device=cpu"
        )
    if gpus or asks_elsewhere:
        return
    if cfg.device == "cuda":
        raise LaunchError("device=cuda needs a GPU, and the job asks for none; add --gpus-per-node 1")


def _check_data(data: DataConfig, resources: Resources) -> Iterator[str]:
    """Warn of data that this machine cannot see, and refuse a folder that is not there."""
    for key in ("root", "split_file", "groups"):
        value = getattr(data, key)
        if value is None or resources.data_on_nodes:
            continue
        warnings = list(_unseen(f"data.{key}", value, resources))
        yield from warnings
        path = expanded(value)
        if not warnings and not path.exists():
            raise DataError(
                f"data.{key}={value}: {_what_is_there(path)}; if only the nodes see it, add --data-on-nodes true"
            )


def _unseen(key: str, value: str, resources: Resources) -> Iterator[str]:
    """A warning of what lies on a file system that this machine lacks; only the nodes may mount it."""
    top = _top(expanded(value))
    if not resources.data_on_nodes and not top.exists():
        near = nearest(top.name, [folder.name for folder in Path("/").iterdir() if folder.is_dir()])
        hint = f" (did you mean /{near}?)" if near else ""
        yield f"{key}={value}: this machine has no {top}{hint}; the job fails if its nodes have none either"


def _top(path: Path) -> Path:
    """The first folder on the way to a path."""
    return Path(*path.absolute().parts[:2])


def _what_is_there(path: Path) -> str:
    """Where the way to a path ends, and what was probably meant."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    name = path.absolute().relative_to(parent).parts[0]
    try:
        near = nearest(name, sorted(entry.name for entry in parent.iterdir()))
    except OSError:
        near = None
    return f"there is no {name} in {parent}" + (f", did you mean {near}?" if near else "")


def _check_share(cfg: Config, resources: Resources) -> None:
    """Refuse ranks that cannot share the global batch, or the patients where their number is known from names."""
    ranks = resources.nodes * resources.processes
    origin = f"{ranks} ranks (nodes={resources.nodes}, {resources.processes} processes on each)"
    batch = cfg.train.global_batch
    refusals = []
    for patients in _training_patients(cfg.data):
        areas = [[1] * batch] * patients  # of as many slices as it may take: their number is not in their names
        try:
            Order(areas, cfg.data.sampling, batch, cfg.seed).columns(0, ranks)
            return
        except ConfigError as error:
            refusals.append(error)
    if refusals:
        raise ConfigError(f"{origin}: {refusals[0]}") from refusals[0]
    if batch % ranks:
        below = batch - batch % ranks
        raise ConfigError(
            f"train.global_batch={batch} cannot be shared by {origin}; set it to {below or ranks} or {below + ranks}, "
            "or change nodes or processes_per_node"
        )


def _training_patients(data: DataConfig) -> list[int]:
    """How many patients may train, as far as names say; none where they do not."""
    named = data.source in ("auto", "lgg", "nifti", "nnunet", "slices") and expanded(data.root or "").is_dir()
    known = data.groups is None and not data.skip_bad and data.sampling == "lesion" and data.published == "all"
    if not named or not known or data.split == "file":
        return []
    count = len(make_source(with_layout(data)).patients())
    if data.split == "kfold":
        return sorted({count - count // data.folds, count - -(-count // data.folds)})
    return [count - data.validation_patients] if count > data.validation_patients else []


def _check_step_options(resources: Resources) -> None:
    """Refuse options that srun does not know, by srun itself, which knows those of the site's plugins."""
    if not resources.srun:
        return
    options = sbatch.step_options(resources)
    done = _call(["srun", *options, "--help"])
    if match := NO_OPTION.search(done.stderr):
        raise LaunchError(_unknown("srun", match[1], _help_of("srun")))


def _check_partitions(resources: Resources) -> Iterator[str]:
    """Refuse what the named partitions, or without a name all of the cluster, can never give."""
    everything = partitions.partitions()
    wanted = resources.partition or str(resources.slurm.get("partition") or os.environ.get("SBATCH_PARTITION") or "")
    named = [name for name in wanted.split(",") if name]
    known = [partition.name for partition in everything]
    for name in named:
        if known and name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near}?" if near else "name one of these"
            raise LaunchError(f"partition={name}: the cluster has no such partition, only {', '.join(known)}; {hint}")
    open_to_it = [one for one in everything if not named or one.name in named]
    problems = {one.name: replace(one, kinds=partitions.kinds(one.name)).problem(resources) for one in open_to_it}
    first = next((one.name for one in open_to_it if one.default or named), None) or next(iter(problems), "")
    problem = problems.get(first)
    if problem and all(problems.values()):
        raise LaunchError(problem)
    # Which partition takes such a job is the site's to decide, often by more than the default.
    if problem and not named:
        yield f"{problem}; name another partition if the site does not choose one by itself"


def _ask_sbatch(script: str, resources: Resources) -> Iterator[str]:
    """Refuse what sbatch refuses to plan; warn where that may be for want of nodes that are up."""
    with sbatch.environment(script):
        done = _call(["sbatch", "--test-only"], script)
    if done.returncode == 0 or UNANSWERED.search(done.stderr):
        return  # what does not answer now may, when the job is submitted, or says so then
    if match := NO_OPTION.search(done.stderr):
        raise LaunchError(_unknown("sbatch", match[1], _help_of("sbatch")))
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in done.stderr.splitlines()]
    answer = " ".join(" ".join(filter(None, lines)).split())[-300:] or f"code {done.returncode}"
    if NO_NODE in answer and _nodes_are_missing(resources):
        yield f"sbatch: {NO_NODE}; some nodes of the partition are down, the job waits until they are back"
        return
    raise LaunchError(f"sbatch would not run the job: {answer}; change the options or the preset")


def _nodes_are_missing(resources: Resources) -> bool:
    """Whether nodes that the job may run on are down or drained."""
    names = [resources.partition] if resources.partition else [one.name for one in partitions.partitions()]
    return any(not kind.usable for name in names for kind in partitions.kinds(name))


def _unknown(program: str, option: str, known: Sequence[str]) -> str:
    section = "slurm" if program == "sbatch" else program
    near = nearest(option, known)
    hint = f"did you mean {near}?" if near else f"{program} --help lists them"
    return f"{section}: {option}: {program} has no such option here, or not with that value; {hint}"


def _help_of(program: str) -> list[str]:
    """The options of a program, those of the site's plugins too."""
    return sorted(set(re.findall(r"--([a-z][a-z0-9-]+)", _call([program, "--help"]).stdout)))


def _call(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 0, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 0, "", "")
