"""Tables of `benchmarks.gpu_counts`: ways of working with a GPU beside the plain ones they replaced, counted on a CPU.

Both ways run by turns in one process, twice; a table is made where both times gave the same counts.
"""

import queue
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu_counts import Operators, engine_of, of_a_step
from segtrain.config import Config, DataConfig, EvaluateConfig, ModelConfig, PhantomConfig, TrainConfig
from segtrain.data.augment.batch import to_device
from segtrain.data.feed import Feed
from segtrain.data.order import make_order
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.engines import base, batch_norm
from segtrain.evaluation import evaluate as evaluation
from segtrain.evaluation import predictor as prediction
from segtrain.evaluation.predictor import Predictor
from segtrain.losses.loss import make_loss
from segtrain.models.make import make_model
from segtrain.runtime.world import World

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from fake_cuda import sync_batch_norm_kernels
from ranks import run_ranks

GPU = torch.device("meta")  # has shapes and no values: what is copied there, or computed, is seen
RANKS = 2
STEPS = 8  # of a feed
TURNS = 2
Row = tuple[int | str, ...]


def tables() -> Iterator[str]:
    """Each with its title in the first cell."""
    yield table(("batch norm of two ranks, a step of a rank", "operators", "collectives", "waits of the host"), norms())
    with tempfile.TemporaryDirectory() as folder:
        cfg = Config(
            data=DataConfig(
                store=folder, image_size=256, validation_patients=2, phantom=PhantomConfig(patients=6, size_px=64)
            ),
            train=TrainConfig(global_batch=16),
        )
        store = ensure_store(cfg.data)
        titles = ["slices for a step", "operators", "copies to the GPU", "MB copied", "waits for a thread"]
        yield table(titles, feeds(cfg, store))
        titles = ["evaluation, a patient", "waits of the thread that feeds the GPU", "of another thread"]
        yield table(titles, evaluations(cfg, store))


def table(titles: Sequence[str], rows: dict[str, Row]) -> str:
    lines = [titles, ["---"] * len(titles), *((name, *row) for name, row in rows.items())]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def by_turns(ways: dict[str, Callable[[], Row]]) -> dict[str, Row]:
    """The counts of each way, which are the same each time."""
    first, *others = [{name: way() for name, way in ways.items()} for _ in range(TURNS)]
    assert all(other == first for other in others), f"counts differ: {first}, {others}"
    return first


def norms() -> dict[str, Row]:
    """torch's SyncBatchNorm and ours, in `unet` under DDP."""
    answers: list[dict[str, Row]] = run_ranks(RANKS, norms_of_rank)
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def norms_of_rank(world: World) -> dict[str, Row]:
    cfg = Config(model=ModelConfig(), train=TrainConfig(global_batch=4 * RANKS))

    def theirs(network: torch.nn.Module, world: World, compiled: bool) -> Any:
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def counts(norm: Any) -> Row:
        with patch.object(base, "over_all_ranks", norm):
            engine = engine_of(cfg, world)
        engine._average_buffers = lambda: None  # which knows our norm alone, and does nothing for it
        counted = of_a_step(engine, 4)
        return len(counted.calls), len(counted.collectives), len(counted.waits)

    fused = patch.object(batch_norm, "_fused", lambda input_nc: True)  # the kernels of a GPU, in their definition
    with sync_batch_norm_kernels(), sync_batch_norm_on_a_cpu(), fused:
        return by_turns(
            {"torch's SyncBatchNorm": lambda: counts(theirs), "ours": lambda: counts(batch_norm.over_all_ranks)}
        )


@contextmanager
def sync_batch_norm_on_a_cpu() -> Iterator[None]:
    """A context in which torch and DDP take it there too."""
    forward = torch.nn.SyncBatchNorm.forward

    def on_cpu(norm: torch.nn.SyncBatchNorm, input_nc: torch.Tensor) -> torch.Tensor:
        with patch.object(torch._C, "_get_privateuse1_backend_name", lambda: "cpu"):
            return forward(norm, input_nc)

    with (
        patch.object(torch.nn.SyncBatchNorm, "forward", on_cpu),
        patch.object(DistributedDataParallel, "_passing_sync_batchnorm_handle", lambda *_: None),
    ):
        yield


def feeds(cfg: Config, store: Store) -> dict[str, Row]:
    """Slices from the host, read ahead by a thread, and those that lie on the GPU."""
    split = make_split(cfg.data, store)
    order = make_order(cfg, store, split)

    def counts(resident: bool) -> Row:
        data = replace(cfg.data, resident=resident)
        waits = 0
        get = queue.Queue.get

        def counting(self: Any, *arguments: Any, **named: Any) -> Any:
            nonlocal waits
            waits += 1
            return get(self, *arguments, **named)

        with Feed(store, split.train, order, data, 0, 1, GPU) as feed:
            feed.load()
            with patch.object(queue.Queue, "get", counting), Operators(GPU) as counted:
                for batch in feed.batches(0, STEPS):
                    to_device(batch.image_bhwc, batch.mask_bhw, batch.draws, GPU)
        numbers = len(counted.calls), len(counted.copied_bytes), sum(counted.copied_bytes), waits
        assert not any(number % STEPS for number in numbers), "each step is like the others"
        operators, copies, size, waits = (number // STEPS for number in numbers)
        return operators, copies, f"{size / 1e6:.3f}", waits

    return by_turns({"read from the store": lambda: counts(False), "resident": lambda: counts(True)})


def evaluations(cfg: Config, store: Store) -> dict[str, Row]:
    """A patient predicted, waited for and scored, then the next; and the next queued before one is waited for."""
    settings, loss, patients = EvaluateConfig(pictures=2), make_loss(cfg.loss), sorted(store.patients)
    predictor = Predictor(make_model(ModelConfig(features=4), 0).eval(), settings, torch.device("cpu"))
    answers: list[object] = []

    def one_after_the_other() -> None:
        scores = [
            evaluation.score_patient(predictor, loss, store, patient, patient in patients[: settings.pictures])[0]
            for patient in patients
        ]
        answers.append(text_of(evaluation.combine(scores, patients, loss)))

    def next_one_queued() -> None:
        result = evaluation.evaluate(predictor, loss, store, patients, World())
        assert result is not None
        answers.append(text_of(result))

    def counts(way: Callable[[], None]) -> Row:
        waits: Counter[bool] = Counter()
        feeder = threading.current_thread()

        def fence(device: torch.device) -> Callable[[], None]:
            def wait() -> None:
                waits[threading.current_thread() is feeder] += 1

            return wait

        with patch.object(evaluation, "fence", fence), patch.object(prediction, "fence", fence):
            way()
        assert not any(count % len(patients) for count in waits.values())
        return waits[True] // len(patients), waits[False] // len(patients)

    rows = by_turns(
        {
            "one after the other": lambda: counts(one_after_the_other),
            "the next one queued": lambda: counts(next_one_queued),
        }
    )
    assert len(set(answers)) == 1, "bitwise the same evaluations"
    return rows


def text_of(result: evaluation.Evaluation) -> str:
    """All that an evaluation says, pictures by their bytes."""
    pictures = [score.picture.tobytes() for score in result.scores if score.picture is not None]
    scores = [replace(score, picture=None, worst_lesion=None) for score in result.scores]
    return repr((scores, result.dsc, result.regions, result.loss, pictures))
