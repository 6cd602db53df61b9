"""Trials of an augmentation of the user's own, before the first step: its form, and what would go wrong silently.

Legend: h height, w width, c channel.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from segtrain.config import Choice, MaskLayout
from segtrain.config.own_parts import RANGES
from segtrain.config.trial import Check, Verdict
from segtrain.data.augment.ahead import OneThread
from segtrain.data.augment.batch import draw, to_device
from segtrain.data.augment.draws import Contrasts
from segtrain.data.augment.forms import Mask, Misfit, Plane
from segtrain.data.augment.own import OwnAugmentation, Recipe
from segtrain.data.augment.phantoms import Sample, pattern, plain
from segtrain.data.augment.search import CLOSE, PROBES, apart, equal, fit, other_range, remedy_apart, unchanged
from segtrain.errors import ConfigError

log = logging.getLogger(__name__)

Finding = tuple[Verdict, str]  # and its message

DRAWS = 50
SHORT_S = 0.2  # of a check before training
FEWEST = 5  # draws then
FACTOR = 3.0  # by which the standard deviation may change
CLIPPED = 0.05  # share of voxels at the least value, where the values were continuous


@dataclass(frozen=True)
class Tried:
    """What the trials found. `recipe`: the augmentation for training, None where a trial failed.

    description: the part, and how it will be used; of one that failed, its key alone.
    """

    description: str
    checks: tuple[Check, ...]
    recipe: Recipe | None

    def require(self) -> Recipe:
        """The augmentation, where no trial failed. Raises ConfigError: the first that did."""
        for check in self.checks:
            if check.verdict == "fails":
                raise ConfigError(f"{self.description}: {check.message}")
        for check in self.checks:
            if check.verdict == "warning":
                log.warning("%s: %s", self.description, check.message)
        assert self.recipe is not None
        return self.recipe


def tried(
    choice: Choice,
    seed: int,
    channels: int,
    size_px: int,
    layout: MaskLayout = MaskLayout(),  # noqa: B008  frozen
    *,
    short: bool = False,
) -> Tried:
    """The trials of an own augmentation, on made-up samples with the largest value that masks of the layout have.

    `short`: as before a training, in less than a second. Raises ConfigError: it cannot be imported or made.
    """
    thread = OneThread()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = thread.run(OwnAugmentation, choice, seed)
            samples = _Samples(channels, size_px, layout.largest)
            return thread.run(_tried, own, samples, SHORT_S if short else float("inf"))
    finally:
        thread.close()


@dataclass(frozen=True)
class _Samples:
    """What made-up samples are like; `lesion`: the value of a mask where it is not 0."""

    channels: int
    size_px: int
    lesion: int


def _tried(own: OwnAugmentation, samples: _Samples, limit_s: float) -> Tried:
    try:
        shape = fit(own, samples.channels, samples.size_px, samples.lesion)
    except ConfigError as error:
        return Tried(str(own), (Check("form", "fails", str(error).partition(": ")[2]),), None)
    trial = _Trial(own, samples, shape, limit_s)
    checks = (Check("form", "holds", str(own.form)), *trial.checks())
    if any(check.verdict == "fails" for check in checks):
        return Tried(str(own), checks, None)
    image, mask = plain((samples.size_px, samples.size_px), samples.channels, samples.lesion)
    time_ms = _least_ms(lambda: own.augment(image, mask, 0))
    if limit_s == float("inf"):
        ours = ", ".join(f"{name} {_built_in_ms(name, image, mask):.1f} ms" for name in ("reference", "strong"))
        checks += (Check("speed", "holds", f"{time_ms:.1f} ms a sample; on this CPU {ours}"),)
    description = f"{_title(own)}: {trial.description()}; {time_ms:.1f} ms a sample"
    return Tried(description, checks, own.recipe())


def _least_ms(function: Callable[[], object]) -> float:
    """The time of a call, the least of several: other processes may be busy meanwhile."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 9 and sum(times) < SHORT_S):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def _built_in_ms(name: str, image_hwc: Plane, mask_hw: Mask, batch: int = 4) -> float:
    """The time a sample of a built-in augmentation, which works on whole batches."""
    image = torch.from_numpy(image_hwc).repeat(batch, 1, 1, 1)
    mask = torch.from_numpy(mask_hw).repeat(batch, 1, 1)
    cpu = torch.device("cpu")
    positions, contrasts = np.arange(batch), Contrasts(tuple(map(str, range(image_hwc.shape[2]))))
    return _least_ms(lambda: to_device(image, mask, draw(name, 0, positions, contrasts), cpu)) / batch


def _title(own: OwnAugmentation) -> str:
    options = ", ".join(f"{name}={value}" for name, value in own.options.items())
    return f"{own.reference.short}({options})" if options else own.reference.short


class _Trial:
    """The checks of one augmentation whose form is known."""

    def __init__(self, own: OwnAugmentation, samples: _Samples, shape: tuple[int, int], limit_s: float) -> None:
        self.own = own
        self.limit_s = limit_s
        self.pattern = pattern(shape, samples.channels, samples.lesion)
        self.plain = plain(shape, samples.channels, samples.lesion)
        self.other = plain(shape, samples.channels, samples.lesion, seed=3)

    def checks(self) -> Iterator[Check]:
        """Every check; what the user's code raises in one is that one's failure."""
        broken = False
        for name, check in {
            "mask moves with the image": self._mask,
            "values keep their range": self._values,
            "differs between samples": self._differs,
            "seeded by position": self._seeded,
            "made from the seed": self._made,
        }.items():
            if broken:
                yield Check(name, "not tried")
                continue
            try:
                verdict, message = check()
            except Exception as error:  # noqa: BLE001  a rare draw may fail where those before did not
                verdict, message = "fails", str(self.own.explained(error, "in a trial")).partition(": ")[2]
                broken = True
            broken = broken or (verdict == "fails" and name == "seeded by position")
            yield Check(name, verdict, message)

    def description(self) -> str:
        """What was found, to stand after the part's name."""
        own = self.own
        kind = "mask moved with the image" if self._moves else "mask not moved, image only changed in value"
        seeded = "seeded" if self._draws else "draws nothing"
        values = f"; range {own.range}" if own.range != RANGES[0] else ""
        return f"{own.form}; {kind}; {seeded}{values}"

    @cached_property
    def _patterns(self) -> list[Sample]:
        return list(self._several(self.pattern))

    @cached_property
    def _plains(self) -> list[Sample]:
        return list(self._several(self.plain))

    def _several(self, sample: Sample) -> Iterator[Sample]:
        begin = time.perf_counter()
        for position in range(DRAWS):
            if position >= FEWEST and time.perf_counter() - begin > self.limit_s:
                return
            yield self.own.augment(*sample, position)

    @property
    def _moves(self) -> bool:
        return any(not np.array_equal(mask, self.pattern[1]) for _, mask in self._patterns)

    @property
    def _draws(self) -> bool:
        return any(not equal(result, results[0]) for results in (self._patterns, self._plains) for result in results)

    def _mask(self) -> Finding:
        if message := apart(self._patterns):
            return "fails", message + remedy_apart(self.own)
        if message := apart(self._patterns, CLOSE):
            return "warning", message + remedy_apart(self.own)
        return "holds", f"{len(self._patterns)} draws"

    def _values(self) -> Finding:
        message, fails = self._range_problem(self._plains)
        if message is None or not fails:
            return ("warning", message) if message else ("holds", "")

        def holds(other: OwnAugmentation) -> bool:
            results = [other.augment(*self.plain, position) for position in range(PROBES)]
            return self._range_problem(results)[0] is None

        return "fails", message + other_range(self.own, holds)

    def _range_problem(self, results: Sequence[Sample]) -> tuple[str | None, bool]:
        """What happens to the values, and whether the part is refused for it."""
        images = [image for image, _ in results]
        clipped = [x for x in images if x.min() >= -1e-6 and float((x == x.min()).mean()) > CLIPPED]
        if clipped:
            return f"clips z-scores: all below 0 became 0 in {len(clipped)} of {len(images)} draws", True
        ratios = [float(np.mean(x.std(axis=(0, 1)))) for x in images]  # of z-scores it is 1
        wide = [ratio for ratio in ratios if not 1 / FACTOR <= ratio <= FACTOR]
        if not wide:
            return None, False
        message = (
            f"changes the standard deviation by a factor of {max(wide, key=lambda r: abs(np.log(r + 1e-9))):.2g} in "
            f"{len(wide)} of {len(images)} draws; samples are z-scored already, so leave out what normalises them"
        )
        return message, 4 * len(wide) > len(images)

    def _differs(self) -> Finding:
        pairs = [(self._patterns, self.pattern), (self._plains, self.plain)]
        if all(unchanged(self.own, result, sample) for results, sample in pairs for result in results):
            return "warning", f"changes nothing in {len(self._plains)} draws; raise its chance"
        if not self._draws:
            return "warning", "does the same to every sample: this prepares, and augments nothing; let it draw"
        return "holds", ""

    def _seeded(self) -> Finding:
        """L4: the same sample at the same position is the same, whatever came before."""
        own = self.own
        begin = time.perf_counter()
        for position in range(DRAWS):
            if position and time.perf_counter() - begin > self.limit_s:
                break
            first = own.augment(*self.plain, position)
            if not equal(first, own.augment(*self.plain, position)):
                return "fails", (
                    "two calls with one seed differ: it draws from a generator that the run's seed does not reach, or "
                    "keeps state between calls; draw from random, numpy.random or torch within a call, or keep the "
                    "generator in an attribute"
                )
            own.augment(*self.other, position + DRAWS)
            if not equal(first, own.augment(*self.plain, position)):
                return "fails", "keeps state from one sample to the next; compute everything within a call"
        return "holds", "L4"

    def _made(self) -> Finding:
        """What is drawn when the part is made comes from the run's seed."""
        first = self.own.augment(*self.plain, 0)
        if not equal(first, self._made_again(0).augment(*self.plain, 0)):
            return "fails", (
                "made a second time, it gives another result: what it draws when it is made is not from the run's "
                "seed; draw it from random, numpy.random or torch"
            )
        try:
            same = equal(first, self._made_again(1).augment(*self.plain, 0))
        except Misfit:  # such as a turn by 90 degrees
            same = False
        return ("holds", "") if same else ("warning", "draws when it is made, once for the whole run; draw in the call")

    def _made_again(self, more: int) -> OwnAugmentation:
        """Made with another seed, and called with the run's."""
        again = OwnAugmentation(self.own.choice, self.own.seed + more)
        again.form, again.seed = self.own.form, self.own.seed
        return again
