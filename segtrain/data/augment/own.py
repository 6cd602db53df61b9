"""Augmentations of the user's own: loaded as they stand, seeded by position, called on one sample at a time.

Legend: h height, w width, c channel.
"""

import hashlib
import inspect
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segtrain.config import AUGMENTATIONS, Choice, name_of, options_of, part_of
from segtrain.config.own_code import own_code
from segtrain.config.own_parts import RANGE, RANGES
from segtrain.config.reference import Reference
from segtrain.data.augment import forms, seeds
from segtrain.data.augment.forms import IMAGE_NAMES, Form, Mask, Misfit, Plane
from segtrain.data.augment.recognise import forms_of
from segtrain.data.order import AUGMENT_STREAM, CONSTRUCTION_STREAM
from segtrain.errors import ConfigError

Back = Callable[[Plane], Plane]


@dataclass(frozen=True)
class Recipe:
    """All that makes the same augmentation in another process. `digest`: of the part's files."""

    choice: Choice
    seed: int
    form: Form
    digest: str


class OwnAugmentation:
    """A part of the user's own, made with the run's seed. `candidates`: the forms that it may take a sample in."""

    def __init__(self, choice: Choice, seed: int) -> None:
        """Raises ConfigError: it cannot be imported or made, or takes no sample."""
        self.choice = choice
        self.seed = seed
        self.reference = Reference.of(name_of(choice))
        options = options_of(choice)
        self.range = str(options.pop(RANGE, RANGES[0]))
        self.options = options
        with seeds.kept():
            seeds.seed_all(seeds.numbers(seed, CONSTRUCTION_STREAM, 0, 0), [])
            self.function = self._made(part_of(choice, AUGMENTATIONS).load())
        self.candidates = forms_of(self.function)
        self.form: Form | None = None
        if not self.candidates:
            raise ConfigError(f"{self}: takes no sample; it must take an image and its mask, or a mapping of both")
        self._generators = seeds.own_generators(self.function)

    def __str__(self) -> str:
        return f"data.augment={self.reference.short}"

    @classmethod
    def of(cls, recipe: Recipe) -> "OwnAugmentation":
        """The same as in the process that wrote the recipe. Raises ConfigError: its files have changed since."""
        own = cls(recipe.choice, recipe.seed)
        if own.digest() != recipe.digest:
            raise ConfigError(f"{own}: its files changed while the training started; start again")
        own.form = recipe.form
        return own

    def recipe(self) -> Recipe:
        """What another process needs."""
        assert self.form is not None
        return Recipe(self.choice, self.seed, self.form, self.digest())

    def digest(self) -> str:
        """A hash of the part's files; of an installed package, nothing."""
        code = own_code(self.reference)
        return hashlib.sha256(repr(code.hashes() if code else "").encode()).hexdigest()

    def augment(
        self, image_hwc: NDArray[Any], mask_hw: Mask, position: int, stream: int = AUGMENT_STREAM
    ) -> tuple[Plane, Mask]:
        """Image float32 and mask of the sample at `position`, augmented; a pure function of these arguments (L4).

        Raises Misfit for a result that is no such sample, and what the user's code raises.
        """
        assert self.form is not None
        image, back = RANGE_MAPS[self.range](image_hwc.astype(np.float32))
        numbers = seeds.numbers(self.seed, stream, position, len(self._generators))
        with seeds.kept(), torch.no_grad():
            seeds.seed_all(numbers, self._generators)
            changed, moved = forms.apply(self.form, self.function, image, mask_hw)
        return back(changed), moved

    def as_mapped(self, image_hwc: Plane) -> Plane:
        """An image after the range's map there and back."""
        image, back = RANGE_MAPS[self.range](image_hwc)
        return back(image.astype(np.float32))

    def explained(self, error: Exception, where: str) -> ConfigError:
        """One line about what the user's code raised, or what is wrong with its result; `where`: on which sample."""
        if isinstance(error, Misfit):
            return ConfigError(f"{self}: {error} ({where})")
        frames = traceback.extract_tb(error.__traceback__)
        frame = frames[-1]
        text = " ".join(str(error).split())[:200]
        return ConfigError(
            f"{self}: {type(error).__name__}: {text} in {Path(frame.filename).name}, line {frame.lineno} ({where}); "
            "mend it, or choose another augmentation"
        )

    def _made(self, loaded: Any) -> Callable[..., Any]:
        """What is called with a sample: the object itself, or what a class or factory makes with the options."""
        is_made = isinstance(loaded, type) or _is_factory(loaded, self.options)
        if is_made or (self.options and inspect.isroutine(loaded)):
            loaded = self._with_options(loaded, is_made)
        elif self.options:
            raise ConfigError(
                f"{self}: is made already, so it has no option {next(iter(self.options))}; name a function or class, "
                "or leave the option out"
            )
        if not callable(loaded):
            raise ConfigError(f"{self}: a {type(loaded).__name__} cannot be called with a sample; give it __call__")
        function: Callable[..., Any] = loaded
        return function

    def _with_options(self, loaded: Any, is_made: bool) -> Any:
        if not is_made:
            return part_of(self.choice, AUGMENTATIONS).load(**self.options)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                transform = loaded(**self.options)
        except Exception as error:  # whatever code of the user's raises is the user's to mend; the cause shows where
            text = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"{self}: cannot be made ({type(error).__name__}: {text}); give its options as "
                f"data.augment={{part: {self.reference.short}, option: value}}"
            ) from error
        unknown = [str(warning.message) for warning in caught if "not valid for transform" in str(warning.message)]
        if unknown:  # albumentations goes on without them
            raise ConfigError(f"{self}: {unknown[0]}; leave it out, or correct its name")
        return transform


def _is_factory(loaded: Any, options: dict[str, Any]) -> bool:
    """Whether a function makes the augmentation: it can be called with the options alone, and takes no image."""
    if not inspect.isroutine(loaded):
        return False
    try:
        parameters = inspect.signature(loaded).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    first = next((p.name for p in parameters), "")
    takes_any = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) and not options
    return set(needed) <= set(options) and first not in IMAGE_NAMES and not takes_any


def _same(image: Plane) -> tuple[Plane, Back]:
    return image, lambda changed: changed


def _to_unit(image: Plane) -> tuple[Plane, Back]:
    """Each channel from its least to its largest value as 0 to 1, so that a fill of 0 is air."""
    least = image.min(axis=(0, 1))
    span = np.maximum(image.max(axis=(0, 1)) - least, np.float32(1e-6))
    return (image - least) / span, lambda changed: changed * span + least


def _to_bytes(image: Plane) -> tuple[Plane, Back]:
    """The same as 0 to 255, rounded."""
    unit, back = _to_unit(image)
    return np.rint(unit * 255).astype(np.uint8), lambda changed: back(changed / np.float32(255))


RANGE_MAPS: dict[str, Callable[[Plane], tuple[Plane, Back]]] = dict(
    zip(RANGES, (_same, _to_unit, _to_bytes), strict=True)
)
