"""torchrun whose ports are open to this machine alone or, on several nodes, at the first node's address alone.

Takes torchrun's options: python -m segtrain.runtime.torchrun --nproc-per-node=4 -m segtrain.train ...
"""

import argparse
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, LaunchError
from segtrain.runtime import cpus
from segtrain.runtime.addresses import LOOPBACK, keep_to_loopback
from segtrain.runtime.allocator import without_small_caches
from segtrain.runtime.launcher import CODES
from segtrain.runtime.process import run_command

EXPLAINED = (EXIT_STOPPED, EXIT_USER_ERROR, EXIT_DIVERGED)  # codes of ranks that said why in a line of their own
GPUS = ("/dev/nvidiactl", "/dev/kfd")
SAVE_S = "100"  # that ranks get to end a step and save after a signal, unless the environment says so; torchrun's: 30
FAILED = 1  # torchrun's own code, whatever its workers' codes are


def launch(argv: Sequence[str]) -> None:
    """Run torchrun to its end. Raises ChildFailedError: a rank failed; SignalException: this process was to stop."""
    from torch.distributed.elastic.multiprocessing.errors import record
    from torch.distributed.run import determine_local_world_size, parse_args, parse_min_max_nnodes, run

    from segtrain.runtime.torchrun_rendezvous import BACKEND, register

    options = parse_args(list(argv))
    register()
    if parse_min_max_nnodes(options.nnodes)[1] == 1:
        keep_to_loopback()
        host, port, node = LOOPBACK, 0, 0
        options.rdzv_id = str(uuid.uuid4())
    else:
        _refuse_other_rendezvous(options)
        host, port, node = options.master_addr, options.master_port or 29500, options.node_rank
        options.node_rank = 0  # of torchrun's own rendezvous
    options.standalone = False
    options.rdzv_backend = BACKEND
    options.rdzv_endpoint = f"{host}:{port}"
    options.rdzv_conf = ",".join(filter(None, (options.rdzv_conf, f"rank={node}")))
    if "OMP_NUM_THREADS" not in os.environ:  # else torchrun sets 1, with a long warning
        os.environ["OMP_NUM_THREADS"] = str(cpus.of_rank(determine_local_world_size(options.nproc_per_node)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SAVE_S)
    if not any(Path(device).exists() for device in GPUS):  # measured on CPUs alone
        without_small_caches(os.environ)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup, which torchrun would undo
        handled = (name.strip() for name in options.signals_to_handle.split(","))
        options.signals_to_handle = ",".join(name for name in handled if name != "SIGHUP")
    record(run)(options)


def _refuse_other_rendezvous(options: argparse.Namespace) -> None:
    """Raises LaunchError for options of a rendezvous that would be passed over: each node would wait for itself."""
    if options.rdzv_endpoint or options.rdzv_backend != "static" or ":" in options.nnodes:
        raise LaunchError(
            f"--nnodes={options.nnodes} --rdzv-backend={options.rdzv_backend} --rdzv-endpoint={options.rdzv_endpoint}: "
            "this launcher starts a fixed number of nodes by --nnodes, --node-rank, --master-addr and --master-port; "
            "give these, or use torchrun (docs/security.md)"
        )


def main(argv: Sequence[str]) -> int:
    """Run torchrun; the exit code of the rank that ended it, or of those that a signal to this process stopped."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with tempfile.TemporaryDirectory(prefix="segtrain-codes-") as folder:
        os.environ[CODES] = folder
        try:
            launch(argv)
        except SignalException:
            codes = {file.read_text(encoding="utf-8") for file in Path(folder).iterdir()}
            return EXIT_STOPPED if codes == {str(EXIT_STOPPED)} else FAILED
        except ChildFailedError as error:
            _, first = error.get_first_failure()
            if first.exitcode in EXPLAINED:
                return first.exitcode
            raise
    return EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
