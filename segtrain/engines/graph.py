"""A step as one CUDA graph: recorded once, then launched whole, which spares the host its part of each step.

A recording reads and writes fixed places of memory and holds the numbers that Python gave it. So image and mask are
copied to where it reads them, and the rates of the optimiser's groups are numbers on the device, in the steps before
the recording too: a resumed run, which records anew, has the same bits (L6). Seeds are set before each launch. Where a
step has other numbers from Python, or waits for the device, there is no graph; `graph_of` says why.

After https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs, the capture of a whole network.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrain.config import Config, Reference, loss_terms, name_of
from segtrain.errors import gist
from segtrain.runtime.out_of_memory import OutOfMemory
from segtrain.runtime.world import World

if TYPE_CHECKING:
    from segtrain.engines.ddp import DdpEngine

log = logging.getLogger(__name__)

PLAIN_STEPS = 3  # before the recording: cuDNN chooses its algorithms, the optimiser makes its state
Work = Callable[[Tensor, Tensor], Tensor]  # image, mask to loss


def graph_of(engine: "DdpEngine") -> "StepGraph | None":
    """The graph that `train.cuda_graph` asks for, not yet recorded; None, and a line why, where there can be none."""
    if not engine.cfg.train.cuda_graph:
        return None
    if obstacle := _obstacle(engine.cfg, engine.world, engine.micro_batch):
        if engine.world.is_main:
            log.warning("train.cuda_graph=true: steps are launched one operation after the other, since %s", obstacle)
        return None
    for group in engine.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=engine.world.device)
    return StepGraph(engine)


def _obstacle(cfg: Config, world: World, micro_batch: int) -> str | None:
    """Why a step of this config cannot be recorded."""
    terms = loss_terms(cfg.loss)
    own = {
        "loss": [term.part for term in terms],
        "model.name": [name_of(cfg.model.name)],
        "optim.name": [name_of(cfg.optim.name)],
    }
    obstacles = {
        "this is a CPU": world.device.type != "cuda",
        "several ranks wait for each other in a step": world.size > 1,
        "a step has several micro-batches": micro_batch < cfg.train.global_batch // world.size,
        "optim.name=schedulefree computes numbers in Python": name_of(cfg.optim.name) == "schedulefree",
        "a weight of the loss changes with the step": any(not isinstance(term.weight, float | int) for term in terms),
        "model.compile has graphs of its own": bool(cfg.model.compile),
        "model.checkpoint_activations reads the state of generators": cfg.model.checkpoint_activations,
    } | {
        f"{key} is code of your own, which may compute in Python": any(map(Reference.parse, names))
        for key, names in own.items()
    }
    return next((reason for reason, holds in obstacles.items() if holds), None)


class StepGraph:
    """Runs an engine's steps: plainly at first, then by the graph of one of them."""

    def __init__(self, engine: "DdpEngine") -> None:
        self.engine = engine
        self.forget()

    @property
    def recorded(self) -> bool:
        """Whether steps are launched whole by now."""
        return self._graph is not None

    def forget(self) -> None:
        """Record anew, after some plain steps: the optimiser's state lies elsewhere now."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False
        self._plain_steps = 0

    def run(self, image_bchw: Tensor, mask_bchw: Tensor, work: Work, seed: Callable[[], None]) -> Tensor:
        """The loss of `work`, which trains on image and mask; `seed` sets the generators before a launch.

        Raises OutOfMemory, from a plain step.
        """
        if self._plain_steps < PLAIN_STEPS or self.engine.first_step.was_left_out:
            self._plain_steps += 1
            return self._aside(lambda: work(image_bchw, mask_bchw))
        if len(image_bchw) > self.engine.micro_batch:  # halved since: a step is several passes now
            return work(image_bchw, mask_bchw)
        if self._graph is None and not self._failed:
            self._record(image_bchw, mask_bchw, work)
        if self._graph is None:
            return work(image_bchw, mask_bchw)
        self._image.copy_(image_bchw)
        self._mask.copy_(mask_bchw)
        seed()
        self._graph.replay()
        return self._loss.clone()  # the next launch writes there

    def _aside(self, work: Callable[[], Tensor]) -> Tensor:
        """The work on a stream of its own, as before a recording torch's notes ask for."""
        current = torch.cuda.current_stream(self.engine.world.device)
        side = torch.cuda.Stream(self.engine.world.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            loss = work()
        current.wait_stream(side)
        return loss

    def _record(self, image_bchw: Tensor, mask_bchw: Tensor, work: Work) -> None:
        """Record `work`, which computes nothing yet. Where that fails, all steps are plain from here on."""
        engine, scaler = self.engine, self.engine.scaler.state_dict()
        stream = torch.cuda.current_stream(engine.world.device)
        self._image, self._mask = image_bchw.clone(), mask_bchw.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # Not "global": other threads read slices and write checkpoints meanwhile.
            with self._recordable(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._loss = work(self._image, self._mask)
        except (RuntimeError, MemoryError, OutOfMemory) as error:
            self._failed = True
            reason = gist(error)
            log.warning("train.cuda_graph=true: a step could not be recorded (%s); they go on plainly", reason)
        else:
            self._graph = graph
            log.info("a step is one CUDA graph from here on")
        if self._failed:  # outside of the except clause: the error's traceback refers to the step's tensors
            torch.cuda.set_stream(stream)  # torch leaves the recording's, where that cannot be ended either
            engine.drop_step(scaler)

    @contextmanager
    def _recordable(self) -> Iterator[None]:
        """A context in which the engine sets no seeds or rates, and its optimiser agrees to be recorded."""
        groups = self.engine.optimizer.param_groups
        before = [group.get("capturable") for group in groups]
        self.engine.recording = True
        try:
            for group, capturable in zip(groups, before, strict=True):
                if capturable is not None:
                    group["capturable"] = True
            yield
        finally:
            self.engine.recording = False
            for group, capturable in zip(groups, before, strict=True):
                if capturable is not None:
                    group["capturable"] = capturable
