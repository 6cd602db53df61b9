"""How all that runs between `segtrain train` and its first step, images apart, grows with the number of patients.

python -m benchmarks.starts                                     # 100 to 100,000 patients, on one core

One rank, a small network. A store is made up as benchmarks/scale.py does, where the command looks for it.
"""

import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import scale
from benchmarks.growth import Growth, Work
from segtrain.config import Config, load_config
from segtrain.runtime.process import run_command


def _config(folder: Path) -> Config:
    return load_config(
        None,
        [
            f"data.phantom={{patients: {folder.name}, size_px: 64}}",
            f"data.image_size={scale.SIZE_PX}",
            "data.split=kfold",
            f"data.store={folder}/store",
            "model.name=unet",
            "model.features=4",
            "model.depth=2",
            "train.global_batch=8",
            "name=run",
            f"runs_dir={folder}/runs",
            "device=cpu",
        ],
    )


def _make(folder: Path, patients: int) -> None:
    """A folder, whose name is the number of patients, with the store that `_config` asks for."""
    from segtrain.data.sources import make_source
    from segtrain.data.store import store_path

    cfg = _config(folder).data
    scale.make_store(store_path(cfg, make_source(cfg).fingerprint()), patients)


def _start(folder: Path) -> Work:
    """Up to where the loop begins, of a run that begins or goes on."""
    from segtrain.run import Run
    from segtrain.runtime.stop import Stop
    from segtrain.runtime.world import World
    from segtrain.training import session
    from segtrain.training.resume import resume
    from segtrain.training.start import prepare, refuse_disagreement

    cfg = _config(folder)

    def work() -> None:
        run = Run.of(cfg)
        start = prepare(cfg, run, Stop(), World(), fresh=False)
        with ExitStack() as held:
            tree = session.split_tree(start.store, start.split)
            held.callback(run.open(start.cfg, tree, [], session._environment(start), False).release)
            refuse_disagreement(start)
            session._introduce(start)
            resume(start)
            start.order.plan(0)

    return work


def _first_start(folder: Path) -> Work:
    shutil.rmtree(folder / "runs", ignore_errors=True)
    return _start(folder)


def _resume(folder: Path) -> Work:
    """Of a run that has a checkpoint of its first step."""
    from segtrain.run import Run, checkpoint
    from segtrain.runtime.stop import Stop
    from segtrain.runtime.world import World
    from segtrain.training.loop import Loop
    from segtrain.training.micro_batch import guard
    from segtrain.training.resume import Position
    from segtrain.training.start import prepare

    _first_start(folder)()
    cfg = _config(folder)
    run = Run.of(cfg)
    start = prepare(cfg, run, Stop(), World(), fresh=False)
    memory = guard(cfg.train, run, start.engine, start.world, None)
    loop = Loop(start, Position(step=1), memory, checkpoint.Saver(run, 1))
    loop._save()
    loop._wait_for_all_writes()
    loop.close()
    return _start(folder)


GROWTH = Growth(
    "benchmarks.starts",
    "From the command to its first step, by patients",
    "patients",
    (100, 1_000, 10_000, 100_000),
    _make,
    {"start": _first_start, "resume": _resume},
    Path(".bench/starts"),
)


def command(argv: Sequence[str]) -> int:
    """Make the stores, start and resume at each size, print the table."""
    return GROWTH.command(argv, __doc__ or "")


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
