"""Forms in which augmentations take a sample and give it back: which call, which arrays.

Legend: h height, w width, c channel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]  # [h, w, c], or uint8 for range=uint8
Mask = NDArray[np.uint8]  # [h, w], bits of regions (segtrain.config.regions); of one region 0 and 1

IMAGE_NAMES = ("image", "img", "images", "imgs", "x", "input", "scan", "picture")
MASK_NAMES = ("mask", "label", "seg", "segmentation", "msk", "masks", "lbl", "target", "gt", "y", "annotation")


class Misfit(Exception):
    """A result that is no sample of the form; `fault` says which law it breaks."""

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Form:
    """call: a key of CALLS; layout: a key of LAYOUTS; image, mask: names of parameters or keys."""

    call: str
    layout: str
    image: str = "image"
    mask: str = "mask"

    def __str__(self) -> str:
        shown = {
            "pair": f"({self.image}, {self.mask})",
            "swapped": f"({self.mask}, {self.image})",
            "tuple": f"one tuple ({self.image}, {self.mask})",
            "dict": f"{{{self.image}, {self.mask}}}",
            "keywords": f"({self.image}=, {self.mask}=)",
            "image": f"({self.image}) alone",
            "subject": "Subject",
            "batch of one": "(image, mask) by data_keys",
        }
        return f"{shown[self.call]} {self.layout}"


def apply(form: Form, function: Callable[..., Any], image: Plane, mask: Mask) -> tuple[Plane, Mask]:
    """Image and mask after the function; neither input is changed.

    Raises Misfit for a result that is no sample of the same size, and what the function raises.
    """
    give, one = LAYOUTS[form.layout]
    result = CALLS[form.call](function, form, *give(image, mask))
    changed, moved = _two(result, form)
    return _image(changed, image.shape), _mask(moved, mask, one)


def _two(result: Any, form: Form) -> tuple[Any, Any]:
    if isinstance(result, Mapping):
        image, mask = ([key for key in keys if key in result] for keys in ((form.image, "image"), (form.mask, "mask")))
        if not image or not mask:
            raise Misfit("form", f"gives a mapping without {form.mask if image else form.image!r}; give both back")
        return result[image[0]], result[mask[0]]
    if isinstance(result, tuple | list) and len(result) >= 2:
        return result[0], result[1]
    what = "nothing" if result is None else f"one {type(result).__name__}"
    raise Misfit("form", f"gives {what} back, and not an image with its mask; return both")


def _image(value: Any, shape: tuple[int, ...]) -> Plane:
    array = _array(value)
    height, width, channels = shape
    if array.shape == (channels, height, width):
        array = np.moveaxis(array, 0, 2)
    if array.shape != shape:
        _refuse_shape("an image", array, shape)
    image = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(image).all():
        raise Misfit("finite", "gives an image with values that are not finite")
    return image


def _mask(value: Any, given: Mask, one: int) -> Mask:
    """The mask that a function gave back for a `given` one: its values are that one's, or 0, which it may fill with."""
    array = _array(value)
    flat = array.reshape(array.shape[:2] if array.shape[-1] == 1 else array.shape[1:]) if array.ndim == 3 else array
    if flat.shape != given.shape:
        _refuse_shape("a mask", array, given.shape)
    if _is_binary(given):
        lesion: NDArray[np.bool_] = flat == one
        _refuse_values(flat[~lesion & (flat != 0)], [0, one])
        return lesion.astype(np.uint8)
    values = np.unique(given)
    _refuse_values(flat[(flat != 0) & ~np.isin(flat, values)], [0, *values[values > 0]])
    return flat.astype(np.uint8)


def _is_binary(mask: Mask) -> bool:
    """Whether it has no value above 1; values of others are names, which no arithmetic keeps."""
    return bool(mask.max(initial=0) <= 1)


def _refuse_values(other: NDArray[Any], values: list[int]) -> None:
    if other.size:
        shown = f"{', '.join(map(str, values[:-1]))} and {values[-1]}"
        raise Misfit(
            "mask values",
            f"gives a mask with the value {float(other[0]):.4g}, and masks are {shown}; move the mask by nearest voxel",
        )


def _refuse_shape(what: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    shown = " x ".join(map(str, array.shape))
    raise Misfit("size", f"gives {what} of {shown} for one of {' x '.join(map(str, shape))}; keep the size")


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        plain: NDArray[Any] = value.detach().cpu().as_subclass(torch.Tensor).numpy()
        return plain
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise Misfit("form", f"gives a {type(value).__name__}, and not an array")
    return array


# ---- layouts: what the two arrays are given as, and the value of a lesion in a mask of one region


def _tensors(image: Plane, mask: Mask, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    chw = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, 2, 0)))
    return chw, torch.from_numpy(mask.astype(np.float32)).to(dtype).unsqueeze(0)


def _flat_tensors(image: Plane, mask: Mask) -> tuple[Any, Any]:
    chw, one_hw = _tensors(image, mask)
    return chw, one_hw[0]


def _tv_tensors(image: Plane, mask: Mask) -> tuple[Any, Any]:
    from torchvision import tv_tensors

    chw, one_hw = _tensors(image, mask, torch.uint8)
    return tv_tensors.Image(chw), tv_tensors.Mask(one_hw)


def _pictures(image: Plane, mask: Mask) -> tuple[Any, Any]:
    if image.dtype != np.uint8 or image.shape[2] != 3:
        raise Misfit("form", "a picture of PIL has three channels of bytes")
    return Image.fromarray(image), Image.fromarray(mask * np.uint8(255) if _is_binary(mask) else mask)


Give = Callable[[Plane, Mask], tuple[Any, Any]]
LAYOUTS: dict[str, tuple[Give, int]] = {
    "numpy HWC": (lambda image, mask: (image.copy(), mask.copy()), 1),
    "numpy HWC, mask HW1": (lambda image, mask: (image.copy(), mask[..., None].copy()), 1),
    "numpy CHW": (lambda image, mask: (np.moveaxis(image, 2, 0).copy(), mask[None].copy()), 1),
    "tensors CHW": (_tensors, 1),
    "tensors CHW, mask HW": (_flat_tensors, 1),
    "tensors CHW, mask int16": (lambda image, mask: _tensors(image, mask, torch.int16), 1),
    "tv_tensors": (_tv_tensors, 1),
    "PIL": (_pictures, 255),
}


# ---- calls


def _subject(function: Callable[..., Any], form: Form, image: Any, mask: Any) -> tuple[Any, Any]:
    import torchio

    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=image.unsqueeze(3)), mask=torchio.LabelMap(tensor=mask.unsqueeze(3))
    )
    result = function(subject)
    return result["image"].data.squeeze(3), result["mask"].data.squeeze(3)


def _batch_of_one(function: Callable[..., Any], form: Form, image: Any, mask: Any) -> tuple[Any, Any]:
    changed, moved = function(image.unsqueeze(0), mask.unsqueeze(0), data_keys=["input", "mask"])
    return changed[0], moved[0]


def _swapped(function: Callable[..., Any], form: Form, image: Any, mask: Any) -> Any:
    result = function(mask, image)
    return result[::-1] if isinstance(result, tuple | list) and len(result) == 2 else result


Call = Callable[[Callable[..., Any], Form, Any, Any], Any]
CALLS: dict[str, Call] = {
    "pair": lambda function, form, image, mask: function(image, mask),
    "swapped": _swapped,
    "tuple": lambda function, form, image, mask: function((image, mask)),
    "dict": lambda function, form, image, mask: function({form.image: image, form.mask: mask}),
    "keywords": lambda function, form, image, mask: function(**{form.image: image, form.mask: mask}),
    "image": lambda function, form, image, mask: (function(image), mask),
    "subject": _subject,
    "batch of one": _batch_of_one,
}
