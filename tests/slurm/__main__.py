"""The virtual cluster to play with: `make slurm-up`, `make slurm-down`.

python tests/slurm start [--nodes 2] [--cpus 4] [--gpus 2] ...
python tests/slurm status | stop | env | kill-node n2 | kill-slurmd n2 | start-node n2
eval "$(python tests/slurm env)"     exports SLURM_CONF: sinfo, srun, sbatch, sacct then work
"""

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path

from cluster import Cluster, Setup, proctrack


def main() -> int:
    parser = argparse.ArgumentParser("python tests/slurm", description="A SLURM cluster of virtual nodes.")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/segtrain-slurm"))
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start")
    for entry in fields(Setup):
        if entry.name not in ("accounting", "stays"):
            kind = type(entry.default)
            start.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, default=entry.default)
    start.add_argument("--no-accounting", dest="accounting", action="store_false")
    for name in ("stop", "status", "env"):
        commands.add_parser(name)
    for name in ("kill-node", "kill-slurmd", "start-node"):
        commands.add_parser(name).add_argument("node")
    arguments = vars(parser.parse_args())
    cluster, command = Cluster(arguments.pop("dir")), arguments.pop("command")
    if command == "start":
        _start(cluster, Setup(**arguments, stays=True))
    elif command == "stop":
        cluster.stop()
    elif command == "env":
        print(f"export SLURM_CONF={cluster.d}/slurm.conf")
    elif command == "status":
        print(cluster.tool("sinfo", "-N", "-o", "%N %P %t %C %G %E") or "not running")
    else:
        {"kill-node": cluster.kill_node, "kill-slurmd": cluster.kill_slurmd, "start-node": cluster.boot}[command](
            arguments["node"]
        )
    return 0


def _start(cluster: Cluster, setup: Setup) -> None:
    began = time.monotonic()
    try:
        cluster.start(setup)
    except BaseException:
        cluster.stop()
        raise
    how, why = proctrack()
    print(f"{setup.nodes} nodes after {time.monotonic() - began:.1f} s; processes are followed by {how}, {why}")
    print(f"export SLURM_CONF={cluster.d}/slurm.conf")


if __name__ == "__main__":
    sys.exit(main())
