"""Changes to the reference program without which it does not run, or learns nothing, on today's libraries.

Two more are made without touching its text (reference_program.py): its logger, which needs TensorFlow 1, gives way to
one that writes the same scalars by torch, and torchvision's `Compose` to four lines where torchvision does not import.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """In `file` each `old` becomes `new`, in which {validation} is the number of validation patients."""

    file: str
    old: str
    new: str
    why: str


PATCHES = (
    Patch(
        "dataset.py",
        "validation_cases=10",
        "validation_cases={validation}",
        "validates as many patients as the others; it has no option for it",
    ),
    Patch(
        "dataset.py",
        "mask_slices.append(imread(filepath, as_gray=True))",
        "mask_slices.append(imread(filepath, as_gray=True) / 255.0)",
        "since scikit-image 0.19 masks of 0 and 255 stay so, and the loss has no minimum at the mask",
    ),
    Patch("transform.py", "multichannel=True", "channel_axis=-1", "scikit-image 0.22 has no multichannel"),
    Patch(
        "utils.py",
        "    if lcc and np.any(y_pred):",
        "    y_pred = np.round(y_pred)\n    if lcc and np.any(y_pred):",
        "a prediction without lesion crashes its validation",
    ),
)
