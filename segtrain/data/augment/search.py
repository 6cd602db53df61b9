"""The form of an augmentation of the user's own, found by trying: the first in which the mask moves with the image."""

from collections.abc import Callable, Sequence

import numpy as np

from segtrain.config.own_parts import RANGE, RANGES
from segtrain.data.augment.forms import Form, Misfit
from segtrain.data.augment.own import OwnAugmentation
from segtrain.data.augment.phantoms import Sample, auc, displaced_quarters, pattern
from segtrain.errors import ConfigError

SHAPE = 64, 96  # unequal, so that swapped axes show
SQUARE = 64, 64
FAULTS = ("apart", "mask values", "finite", "size")  # of a result in the right form, the nearest to fitting first
PROBES = 12  # draws for each form that is tried
# AUC of a moved image against its moved mask, both of one pattern, where the mask fits better elsewhere. Below the
# first there is a warning, as after a shift by 1 to 2 px; below the second the part is refused; below the third nothing
# is where it was.
CLOSE, LEAST, ELSEWHERE = 0.95, 0.9, 0.75


def fit(own: OwnAugmentation, channels: int, size_px: int, lesion: int) -> tuple[int, int]:
    """Find the first form in which the mask moves with the image; the shape that it was found on.

    `lesion`: the largest value of masks, so that interpolation to 0 would show. Raises ConfigError: there is none, and
    why the likeliest does not fit.
    """
    faults: list[Exception] = []
    idle: tuple[Form, tuple[int, int]] | None = None
    # A transform may turn by 90 degrees, or crop to one size.
    for shape in (SHAPE, SQUARE, (size_px, size_px)):
        for form in own.candidates:
            fault, changes = _probed(own, form, pattern(shape, channels, lesion))
            if fault is not None:
                faults.append(fault)
            elif changes:
                return shape
            else:
                idle = idle or (form, shape)
        # Where it changes nothing, the form may be the wrong one: in another it moves something, and wrongly.
        if idle and not any(isinstance(fault, Misfit) and fault.fault in FAULTS[:2] for fault in faults):
            own.form, shape = idle
            return shape
    likeliest = min(faults, key=_remoteness)
    message = str(own.explained(likeliest, f"tried on {channels} channels"))
    may_be_values = not isinstance(likeliest, Misfit) or likeliest.fault == "finite"
    remedy = other_range(own, lambda other: _fits(other, channels, lesion)) if may_be_values else ""
    own.form = None
    raise ConfigError(message + remedy) from likeliest


def _fits(own: OwnAugmentation, channels: int, lesion: int) -> bool:
    return any(_probed(own, form, pattern(SQUARE, channels, lesion)) == (None, True) for form in own.candidates)


def _probed(own: OwnAugmentation, form: Form, sample: Sample) -> tuple[Exception | None, bool]:
    """Why a form does not fit, None if it does, and whether the image or mask is changed in it. The form is set."""
    own.form = form
    results: list[Sample] = []
    changes = False
    try:
        for position in range(PROBES):
            result = own.augment(*sample, position)
            changes = changes or not unchanged(own, result, sample)
            results.append(result)
            if apart([result]):
                break
    except Exception as error:  # noqa: BLE001  whatever the user's code raises, another form may fit
        return error, changes
    message = apart(results)
    return Misfit("apart", message + remedy_apart(own)) if message else None, changes


def _remoteness(fault: Exception) -> int:
    """How far a form was from fitting: the least is what the user wants to read."""
    return FAULTS.index(fault.fault) if isinstance(fault, Misfit) and fault.fault in FAULTS else len(FAULTS)


def apart(results: Sequence[Sample], least: float = LEAST) -> str | None:
    """How image and mask went apart over some draws of a pattern; None: they did not."""
    aucs = [auc(*result) for result in results]
    gone = aucs.count(None)
    if 1 < len(aucs) < 2 * gone:
        return f"the lesion is gone in {gone} of {len(aucs)} draws"
    low = [
        value
        for value, result in zip(aucs, results, strict=True)
        if value is not None and value < least and displaced_quarters(*result) >= (2 if value < ELSEWHERE else 3)
    ]
    if not low:
        return None
    return (
        f"the mask does not move with the image in {len(low)} of {len(aucs)} draws (AUC of image against mask "
        f"{min(low):.2f}, and {least} is the least)"
    )


def remedy_apart(own: OwnAugmentation) -> str:
    """What to do where image and mask went apart."""
    assert own.form is not None
    package = type(own.function).__module__.partition(".")[0]
    remedies = {
        "monai": "; name image and mask in keys: [image, mask], with mode: [bilinear, nearest] where it has a mode",
        "torchvision": "; use torchvision.transforms.v2",
    }
    return remedies.get(package, "; move both by the same map")


def unchanged(own: OwnAugmentation, result: Sample, sample: Sample) -> bool:
    """Whether nothing but the range's map there and back was done to a sample."""
    same = np.allclose(result[0], own.as_mapped(sample[0]), atol=1e-5)
    return same and np.array_equal(result[1], sample[1])


def equal(one: Sample, other: Sample) -> bool:
    """Whether two samples are the same, bit for bit."""
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def other_range(own: OwnAugmentation, holds: Callable[[OwnAugmentation], bool]) -> str:
    """The remedy where another range is harmless."""
    for name in RANGES:
        if name == own.range:
            continue
        other = OwnAugmentation(own.choice, own.seed)
        other.range, other.form = name, own.form
        try:
            if holds(other):
                return f"; set {RANGE}: {name}, as data.augment={{part: {own.reference.short}, {RANGE}: {name}}}"
        except Exception:  # noqa: BLE001  whatever the user's code raises: this range does not suit it
            continue
    return ""
