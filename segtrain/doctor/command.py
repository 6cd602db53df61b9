"""The command `segtrain doctor`: checks the machine and the config before hours are spent."""

import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segtrain.cli import config_of, parse, start_logging
from segtrain.config import Config
from segtrain.data.sampler import make_order
from segtrain.data.sources import make_source
from segtrain.data.splits import make_split
from segtrain.data.store import open_store, store_path
from segtrain.doctor import cluster, disk, forecast, software, talk
from segtrain.doctor.finding import Finding, failure, ok
from segtrain.errors import EXIT_FINISHED, EXIT_USER_ERROR, LaunchError, SegtrainError

EXAMPLES = """\
  segtrain doctor
  segtrain doctor --config configs/lgg.yaml data.root=/data/kaggle_3m --nproc 4 --price-per-hour 2.5
  segtrain doctor --json
"""
GRACE_S = 30.0  # that torchrun and SLURM give
SAMPLED = 3  # patients that are read where no store tells their slices
COLOURS = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def command(argv: Sequence[str]) -> int:
    """Print a line a check; 2 when something will fail."""
    options = {
        "--nproc": (int, "N", "processes on this machine, as for torchrun (default: one a GPU, two on a CPU)"),
        "--price-per-hour": (float, "X", "of the machine, for a forecast of the cost"),
        "--grace-s": (float, "S", f"seconds from a signal to the kill (default {GRACE_S:.0f})"),
    }
    arguments = parse(
        "segtrain doctor", "Check this machine for a config before the hours are spent.", EXAMPLES,
        {"--json": "for programs"}, argv, options=options,
    )  # fmt: skip
    start_logging()
    began, cfg, found = time.monotonic(), config_of(arguments), []
    ranks = arguments.nproc or _usual_ranks(cfg)
    if ranks < 1 or cfg.train.global_batch % ranks:
        raise LaunchError(f"--nproc {ranks}: train.global_batch={cfg.train.global_batch} cannot be shared by so many")
    for finding in findings(cfg, ranks, arguments.grace_s or GRACE_S, arguments.price_per_hour):
        found.append(finding)
        if not arguments.json and sys.stderr.isatty():
            sys.stderr.write(f"{finding.check}: {finding.state}\n")
    failed = any(finding.state == "failure" for finding in found)
    took_s = round(time.monotonic() - began, 1)
    if arguments.json:
        tree = {"will_fail": failed, "seconds": took_s, "findings": [finding.row() for finding in found]}
        sys.stdout.write(json.dumps(tree, indent=1) + "\n")
    else:
        _show(found, took_s)
    return EXIT_USER_ERROR if failed else EXIT_FINISHED


def findings(cfg: Config, ranks: int, grace_s: float, price: float | None) -> Iterator[Finding]:
    """All checks, each as soon as it is done."""
    if importlib.util.find_spec("torch") is None:
        yield software.packages()
        return
    yield from software.check(cfg)
    yield from talk.ports()
    yield from talk.check(cfg, max(ranks, _gpus(cfg)), grace_s)  # every device, also one that the batch leaves over
    yield from cluster.check()
    said, work, store_bytes = data(cfg, ranks)
    yield said
    lines, words = forecast.trial(cfg, ranks)
    yield from forecast.check(cfg, ranks, work, lines, words, price)
    yield from disk.check("data.store", Path(cfg.data.store), store_bytes)
    parameters = lines[0]["parameters"] if lines else 0
    yield from disk.check("runs_dir", Path(cfg.runs_dir), forecast.checkpoint_bytes(cfg, parameters))


def data(cfg: Config, ranks: int) -> tuple[Finding, forecast.Work | None, int]:
    """Whether the patients can be found and shared by the ranks, how many slices they have, bytes still to prepare."""
    try:
        source = make_source(cfg.data)
        patients = source.patients()
        path = store_path(cfg.data, source.fingerprint())
        if path.is_dir():
            store = open_store(path)
            split = make_split(cfg.data, store)
            make_order(cfg, store, split).columns(0, ranks)
            train, validation = (
                sum(store.patients[p].slices for p in side) for side in (split.train, split.validation)
            )
            said = (
                f"{store.label}: {len(store.patients)} patients, prepared: {train} slices train, {validation} validate"
            )
            return ok("data", said), forecast.Work(train, validation, exact=True), 0
        sample = [len(source.read(patient).mask_shw) for patient in patients[:SAMPLED]]
    except SegtrainError as error:
        thing, _, remedy = str(error).rpartition("; ")
        return failure("data", thing or remedy, remedy), None, 0
    slices = round(sum(sample) / len(sample))
    if cfg.data.split == "kfold":
        validating = len(patients) // cfg.data.folds
    else:
        validating = min(cfg.data.validation_patients, len(patients) - 1)
    work = forecast.Work((len(patients) - validating) * slices, validating * slices, exact=False)
    needed = len(patients) * slices * cfg.data.image_size**2 * 7  # three float16 and a uint8
    said = f"{source.label}: {len(patients)} patients, not prepared yet; {SAMPLED} of them can be read"
    return ok("data", said), work, needed


def _gpus(cfg: Config) -> int:
    if cfg.device == "cpu" or importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def _usual_ranks(cfg: Config) -> int:
    """As many as there are GPUs, or two, as far as they share the batch evenly."""
    wanted = range(min(_gpus(cfg) or 2, cfg.train.global_batch), 0, -1)
    return next(ranks for ranks in wanted if cfg.train.global_batch % ranks == 0)


def _show(found: Sequence[Finding], took_s: float) -> None:
    table = Table("check", "", "what was found", title=f"segtrain doctor, {took_s:.0f} s", title_justify="left")
    for finding in found:
        said = Text(finding.said)
        if finding.remedy:
            said.append(f"\n-> {finding.remedy}", "bold")
        table.add_row(finding.check, Text(finding.state, COLOURS[finding.state]), said)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
