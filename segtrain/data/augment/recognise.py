"""The forms that an augmentation may take a sample in: of a library by its attributes, else by its signature."""

import inspect
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from segtrain.data.augment.forms import IMAGE_NAMES, MASK_NAMES, Form

NUMPY = ("numpy HWC", "numpy HWC, mask HW1")
TENSORS = ("tensors CHW", "tensors CHW, mask HW")
REST = ("PIL", "numpy CHW")


def forms_of(function: Callable[..., Any]) -> list[Form]:
    """The forms to try, the likeliest first."""
    library = _of_library(function)
    return library if library is not None else list(dict.fromkeys(_by_signature(function)))


def _of_library(function: Any) -> list[Form] | None:
    """The forms of a transform of a library that is known; None: it is of none."""
    modules = [kind.__module__ for kind in type(function).__mro__]
    packages = {module.partition(".")[0] for module in modules}

    def has(*names: str) -> bool:
        return all(hasattr(function, name) for name in names)

    if "albumentations" in packages or has("set_random_seed", "available_keys"):
        return [Form("keywords", "numpy HWC")]
    if "monai" in packages or has("set_random_state", "keys"):
        return _of_monai(function)
    if "torchio" in packages:
        return [Form("subject", "tensors CHW")]
    if "batchgeneratorsv2" in packages or has("get_parameters"):
        return [Form("keywords", "tensors CHW, mask int16", "image", "segmentation")]
    if has("data_keys"):  # kornia's containers; its single transforms take the image alone
        return [Form("batch of one", "tensors CHW")]
    if any(module.startswith("torchvision.transforms.v2") for module in modules):
        return [Form("pair", "tv_tensors")]
    return None


def _of_monai(function: Any) -> list[Form]:
    keys = list(dict.fromkeys(_keys(function)))
    if not keys and not hasattr(function, "transforms"):
        return [Form("image", "tensors CHW")]
    masks = [key for key in keys if key.lower() in MASK_NAMES] or ["mask"]
    images = [key for key in keys if key not in masks] or ["image"]
    return [Form("dict", "tensors CHW", images[0], masks[0])]


def _keys(function: Any) -> Iterator[str]:
    """The keys of a sample that MONAI's transforms name."""
    own = getattr(function, "keys", ())
    yield from (str(key) for key in (() if callable(own) else own))
    for inner in getattr(function, "transforms", ()) or ():
        yield from _keys(inner)


def _by_signature(function: Callable[..., Any]) -> Iterator[Form]:
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # compiled code
        parameters = []
    layouts = _layouts(function, parameters)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    names = required if len(required) != 1 else [p.name for p in positional[:2] if _names_sample(p.name)]
    if len(required) + len(by_name) > 2:
        return
    if by_name:
        yield from (Form("keywords", layout, *_in_order(by_name)) for layout in layouts if len(by_name) == 2)
        return
    if len(required) == 2 or (len(names) == 2 and names[1] in MASK_NAMES):
        swapped = names[0] in MASK_NAMES and names[1] not in MASK_NAMES
        image, mask = reversed(names) if swapped else names
        yield from (Form("swapped" if swapped else "pair", layout, image, mask) for layout in layouts)
    if len(required) == 1:
        yield from (Form("tuple", layout) for layout in layouts)
        keys = product(IMAGE_NAMES[:2], MASK_NAMES[:7])
        yield from (Form("dict", layout, image, mask) for image, mask in keys for layout in layouts)
        yield from (Form("image", layout) for layout in layouts)
    elif not required:
        calls = ("pair", "keywords", "tuple")
        yield from (Form(call, layout) for call in calls for layout in layouts)


def _names_sample(name: str) -> bool:
    return name in IMAGE_NAMES or name in MASK_NAMES


def _in_order(names: list[str]) -> tuple[str, str]:
    """The names of image and mask."""
    first, second = names
    return (second, first) if first in MASK_NAMES and second not in MASK_NAMES else (first, second)


def _layouts(function: Any, parameters: list[inspect.Parameter]) -> tuple[str, ...]:
    """Arrays first, or tensors where the part works on them by its kind or annotations."""
    annotated = any("Tensor" in str(p.annotation) for p in parameters)
    pictured = any("Image.Image" in str(p.annotation) for p in parameters)
    # A function that uses torchvision.transforms.v2 on plain tensors moves the first alone.
    rest = (*REST, "tv_tensors") if "torchvision.tv_tensors" in sys.modules else REST
    if pictured:
        return ("PIL", *NUMPY, *TENSORS)
    return (
        (*TENSORS, *NUMPY, *rest) if annotated or isinstance(function, torch.nn.Module) else (*NUMPY, *TENSORS, *rest)
    )
