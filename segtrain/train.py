"""The command `segtrain.train`: what can be checked is checked here, before torch is even imported."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli import config_of, parse, run_command, start_logging
from segtrain.config import Config
from segtrain.data.prepare import ensure_store
from segtrain.data.sampler import make_order
from segtrain.data.splits import Split, make_split
from segtrain.data.store import Store
from segtrain.errors import EXIT_FINISHED, Diverged, SegtrainError
from segtrain.launch import env_int
from segtrain.run import Run

log = logging.getLogger("segtrain.train")  # __name__ is __main__ under -m

DESCRIPTION = "Train a network; ends with the best validation mean DSC. Start it under torchrun for several processes."
EXAMPLES = """\
  torchrun --standalone --nproc_per_node=4 -m segtrain.train
  torchrun --standalone --nproc_per_node=4 -m segtrain.train --config configs/lgg.yaml data.root=/data/kaggle_3m
  python -m segtrain.train name=small model.features=16 data.image_size=128 optim.lr=1e-3
"""


def command(argv: Sequence[str]) -> int:
    """Train the run that the command line describes, on this rank; returns the exit code."""
    arguments = parse(
        "segtrain.train", DESCRIPTION, EXAMPLES, {"--fresh": "start over; the old run is kept beside"}, argv
    )
    rank = env_int("RANK", 0)
    start_logging(rank=rank)
    cfg = config_of(arguments)
    run = Run(Path(cfg.runs_dir).expanduser() / cfg.name)
    if not arguments.fresh and (outcome := run.earlier(cfg)):
        if rank == 0:
            log.info("%s is finished; choose another name=... or --fresh to train again", run.root)
            _last_words(run, outcome["best_dsc"])
        return EXIT_FINISHED
    if env_int("LOCAL_RANK", 0) == 0:  # one process a node; the others wait where the ranks meet
        store, split = _data(cfg)
        make_order(cfg, store, split).columns(0, env_int("WORLD_SIZE", 1))
    return _train(cfg, run)


def _data(cfg: Config) -> tuple[Store, Split]:
    store = ensure_store(cfg.data)
    return store, make_split(cfg.data, store)


def _train(cfg: Config, run: Run) -> int:
    from segtrain.dist import join  # imports torch: seconds

    with join(cfg.device, cfg.threads_per_rank) as world:
        from segtrain.trainer import Trainer

        store, split = _data(cfg)
        if world.is_main:
            run.create(cfg, split.to_json(), world.size, str(world.device))
        world.barrier()
        start_logging(run.log_file, world.rank)
        if world.is_main:
            _first_words(cfg, run, store, split, world.size, str(world.device))
        trainer = Trainer(cfg, run, store, split, world)
        try:
            best_dsc = trainer.run()
        except BaseException as error:
            if world.is_main:
                state = "diverged" if isinstance(error, Diverged) else "failed"
                run.end(state, trainer.step, f"{type(error).__name__}: {error}", trainer.best_dsc)
            if isinstance(error, SegtrainError):
                error.this_rank_only = True
            raise
        if world.is_main:
            assert best_dsc is not None, "the last epoch is always evaluated"
            run.end("finished", trainer.step, None, best_dsc)
            _last_words(run, best_dsc)
    return EXIT_FINISHED


def _first_words(cfg: Config, run: Run, store: Store, split: Split, world_size: int, device: str) -> None:
    log.info("run %s on %d %s rank(s), global batch %d", run.root, world_size, device, cfg.train.global_batch)
    log.info(
        "data: %s, %d px: %d patients train, %d validate",
        store.label,
        store.size_px,
        len(split.train),
        len(split.validation),
    )


def _last_words(run: Run, best_dsc: float) -> None:
    print(f"Run directory: {run.root.resolve()}")
    print(f"TensorBoard:   tensorboard --logdir {run.tensorboard.resolve()}")
    print(f"Best validation mean DSC: {best_dsc:.6f}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The module's and the console script's entry."""
    return run_command(command, sys.argv[1:] if argv is None else argv, env_int("RANK", 0), env_int("LOCAL_RANK", 0))


if __name__ == "__main__":
    sys.exit(main())
