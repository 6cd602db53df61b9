"""Augmentation of the user's own, ahead of the step: by worker processes, or in a thread that the caller waits for.

Neither order nor values depend on the number of workers: each sample is a function of the run's seed and its position,
and is computed with one thread. Legend: k samples, h height, w width, c channel.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from segtrain.data.augment.forms import Mask, Plane
from segtrain.data.augment.own import OwnAugmentation, Recipe
from segtrain.data.neighbours import Neighbours, window
from segtrain.data.store import Store
from segtrain.errors import LaunchError, SegtrainError
from segtrain.runtime import cpus
from segtrain.runtime.workers import Worker, start_workers

T = TypeVar("T")
MOST = 8  # workers, if the config does not say how many


@dataclass(frozen=True)
class Place:
    """A sample to augment: slice `number` of a patient, at a position, with the draws of a stream."""

    patient: str
    number: int
    position: int
    stream: int


@dataclass(frozen=True)
class Asked:
    """Samples that are being augmented: which worker has which."""

    places: Sequence[Place]
    bounds: Sequence[int]


def default_workers() -> int:
    """As many as this rank has CPUs besides the one that it trains with, at least one."""
    return min(MOST, max(1, cpus.of_rank() - 1))


class OneThread:
    """A thread in which torch computes with one thread, as workers do, so that sums have the same bits."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self._executor = ThreadPoolExecutor(1, "augment", torch.set_num_threads, (1,))
        # A thread takes the process's number when it first asks for it, and keeps it: the thread asks while it is 1.
        self._executor.submit(torch.get_num_threads).result()
        torch.set_num_threads(threads)

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """The value of `function`; the caller waits, so nobody draws from the global generators meanwhile."""
        return self._executor.submit(function, *arguments).result()

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()


class Ahead:
    """The augmentation of one rank's samples."""

    def __init__(self, recipe: Recipe, store: Store, neighbours: Neighbours, workers: int | None) -> None:
        self.count = default_workers() if workers is None else workers
        self._recipe = recipe
        self._store = store
        self._neighbours = neighbours
        self._workers: list[Worker] = []
        self._here: tuple[OneThread, OwnAugmentation] | None = None

    def start(self) -> None:
        """Start the workers, in the main thread. Raises LaunchError: the machine allows none."""
        if self.count and not self._workers:
            arguments = (self._recipe, self._store, self._neighbours)
            self._workers = start_workers(_serve, arguments, self.count, "data.augment_workers=0")
        elif not self.count and self._here is None:
            thread = OneThread()
            self._here = thread, thread.run(OwnAugmentation.of, self._recipe)

    def ask(self, places: Sequence[Place]) -> Asked:
        """Have samples augmented. Raises LaunchError: a worker has died."""
        count = max(1, len(self._workers))
        bounds = [len(places) * part // count for part in range(count + 1)]
        for part, worker in enumerate(self._workers):
            try:
                worker.connection.send(places[bounds[part] : bounds[part + 1]])
            except OSError as error:
                raise self._died(worker) from error
        return Asked(places, bounds)

    def fill(self, asked: Asked, image_khwc: Plane, mask_khw: Mask) -> None:
        """Wait for samples, the first that were asked for. Raises LaunchError: a worker has died; and what it raised.

        Both arrays are contiguous.
        """
        if self._here is not None:
            thread, own = self._here
            thread.run(_augment_all, own, self._store, self._neighbours, asked.places, image_khwc, mask_khw)
            return
        for part, worker in enumerate(self._workers):
            mine = slice(asked.bounds[part], asked.bounds[part + 1])
            try:
                answer = worker.connection.recv()
                if isinstance(answer, SegtrainError):
                    raise answer
                if mine.stop > mine.start:
                    worker.connection.recv_bytes_into(image_khwc[mine].data.cast("B"))
                    worker.connection.recv_bytes_into(mask_khw[mine].data.cast("B"))
            except (EOFError, OSError) as error:
                raise self._died(worker) from error

    def close(self) -> None:
        """End workers and thread, whatever they are doing."""
        for worker in self._workers:
            worker.kill()
        if self._here is not None:
            self._here[0].close()

    def _died(self, worker: Worker) -> LaunchError:
        return LaunchError(
            f"data.augment_workers={self.count}: a worker process {worker.why_it_ended()}; set "
            f"data.augment_workers={self.count // 2}, and the same command goes on from the last checkpoint"
        )


def _serve(connection: Connection, recipe: Recipe, store: Store, neighbours: Neighbours) -> None:
    """In a worker: augment the samples that are asked for until the connection ends."""
    warnings.simplefilter("ignore")  # the trials looked at what the user's code does
    torch.set_num_threads(1)
    own: OwnAugmentation | None = None
    while True:
        try:
            places: Sequence[Place] = connection.recv()
        except EOFError:
            return
        shape = len(places), store.size_px, store.size_px
        image = np.empty((*shape, len(store.contrasts) * (2 * neighbours.each_side + 1)), np.float32)
        mask = np.empty(shape, np.uint8)
        try:
            own = own or OwnAugmentation.of(recipe)
            _augment_all(own, store, neighbours, places, image, mask)
        except SegtrainError as error:
            connection.send(error)
            return
        connection.send(None)
        if places:
            connection.send_bytes(image.data.cast("B"))
            connection.send_bytes(mask.data.cast("B"))


def _augment_all(
    own: OwnAugmentation,
    store: Store,
    neighbours: Neighbours,
    places: Sequence[Place],
    image_khwc: NDArray[np.float32],
    mask_khw: NDArray[np.uint8],
) -> None:
    """Read and augment samples. Raises ConfigError: what the user's code raised, or a result that is no sample."""
    for index, place in enumerate(places):
        image, mask = window(store, place.patient, place.number, neighbours)
        try:
            image_khwc[index], mask_khw[index] = own.augment(image, mask, place.position, place.stream)
        except Exception as error:  # whatever the user's code raises
            where = f"patient {place.patient}, slice {place.number}, position {place.position}"
            raise own.explained(error, where) from error
