"""The command `segtrain doctor`: checks the machine and the config before hours are spent."""

import json
import sys
import time
from collections.abc import Sequence

from rich.text import Text

from segtrain.commands.arguments import config_of, config_parser
from segtrain.doctor.checks import findings, usual_ranks
from segtrain.doctor.finding import Finding
from segtrain.errors import EXIT_FINISHED, EXIT_USER_ERROR, LaunchError
from segtrain.runtime.process import start_logging
from segtrain.runtime.terminal import show, show_table
from segtrain.runtime.visible import in_lines

EXAMPLES = """\
  segtrain doctor
  segtrain doctor --config configs/lgg.yaml data.root=/data/kaggle_3m --nproc 4 --price-per-hour 2.5
  segtrain doctor --json
"""
GRACE_S = 30.0  # of plain torchrun, and of SLURM (KillWait), between a signal and the kill
COLOURS = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def command(argv: Sequence[str]) -> int:
    """Print a line for each check; returns 2 when training would fail."""
    parser = config_parser("segtrain doctor", "Check this machine for a config before the hours are spent.", EXAMPLES)
    nproc_help = "processes on this machine, as for torchrun (default: one a GPU, two on a CPU)"
    grace_help = f"seconds from a signal to the kill (default {GRACE_S:.0f})"
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--nproc", type=int, metavar="N", help=nproc_help)
    parser.add_argument("--price-per-hour", type=float, metavar="X", help="of the machine, for a forecast of the cost")
    parser.add_argument("--grace-s", type=float, metavar="S", help=grace_help)
    arguments = parser.parse_intermixed_args(argv)
    start_logging()
    began = time.monotonic()
    cfg = config_of(arguments)
    results = []
    ranks = arguments.nproc or usual_ranks(cfg)
    if ranks < 1 or cfg.train.global_batch % ranks:
        raise LaunchError(f"--nproc {ranks}: train.global_batch={cfg.train.global_batch} cannot be shared by so many")
    for finding in findings(cfg, ranks, arguments.grace_s or GRACE_S, arguments.price_per_hour):
        results.append(finding)
        if not arguments.json and sys.stderr.isatty():
            show(f"{finding.check}: {finding.state}", errors=True)
    failed = any(finding.state == "failure" for finding in results)
    took_s = round(time.monotonic() - began, 1)
    if arguments.json:
        tree = {"will_fail": failed, "seconds": took_s, "findings": [finding.row() for finding in results]}
        sys.stdout.write(json.dumps(tree, indent=1) + "\n")
    else:
        _show(results, took_s)
    return EXIT_USER_ERROR if failed else EXIT_FINISHED


def _show(results: Sequence[Finding], took_s: float) -> None:
    rows = []
    for finding in results:
        message = Text(in_lines(finding.message))
        if finding.remedy:
            message.append(in_lines(f"\n-> {finding.remedy}"), "bold")
        rows.append((finding.check, Text(finding.state, COLOURS[finding.state]), message))
    show_table(f"segtrain doctor, {took_s:.0f} s", rows, ("check", "", "result"))
