"""Sources of one's own: patients in NumPy archives, and some that no training can use."""

from pathlib import Path

import numpy as np


class Archives:
    """`<patient>.npz` with `image` [s, h, w, 3] and `labels`."""

    contrasts = ("pre-contrast", "FLAIR", "post-contrast")
    has_one_range = True

    def __init__(self, root: Path, least: int = 1):
        self.root = root
        self.least = least

    def patients(self):
        return [file.stem for file in self.root.glob("*.npz")]

    def read(self, patient):
        with np.load(self.root / f"{patient}.npz") as arrays:
            return arrays["image"], (arrays["labels"] >= self.least).astype(np.uint8)

    def person(self, patient):
        return patient.rstrip("ab")

    def spacing_mm(self, patient):
        return (3.0, 1.0, 1.0)


def archives(root, cfg, *, suffix="npz"):
    """Made by a function, and told by its files' names and sizes."""
    assert suffix == "npz"
    assert cfg.image_size
    return Told(root)


class Told(Archives):
    def fingerprint(self):
        return repr([(file.name, file.stat().st_size) for file in sorted(self.root.glob("*.npz"))])


class Made:
    """Six slices a patient; `fault` says what is wrong with them."""

    contrasts = ("t1", "flair")
    reads = 0

    def __init__(self, fault=""):
        self.fault = fault

    def patients(self):
        return {"twice": ["A", "B", "A"], "none": [], "path": ["a/b"], "number": [1]}.get(self.fault, ["B", "A"])

    def read(self, patient):
        Made.reads += 1
        rng = np.random.default_rng(Made.reads if self.fault == "random" else ord(patient))
        image = rng.integers(1, 999, (6, 16, 16, 2)).astype(np.float32)
        labels = np.zeros((6, 16, 16), np.int16)
        labels[2:4, 4:9, 4:9] = 1
        if self.fault == "raises":
            raise KeyError("no such scan")
        if self.fault == "infinite":
            image[0, 0, 0, 0] = np.inf
        if self.fault == "soft":
            labels = labels * 0.6
        if self.fault == "value":
            labels[2, 4, 4] = 7
        spaced = {"image": [image[..., 0], image[..., 1]], "labels": labels, "spacing_mm": (3, 1, 1)}
        return {
            "shape": (image[0], labels),
            "channels": (image[..., :1], labels),
            "labels": (image, labels[:, :8]),
            "infinite": (image, labels),
            "text": (image.astype(str), labels),
            "list": ([image[..., 0], image[:3, ..., 1]], labels),
            "nothing": None,
            "key": {"image": image, "mask": labels},
            "spacing": {**spaced, "spacing_mm": (1, 0, 1)},
            "unlabelled": (image, None),
        }.get(self.fault, spaced)


class Lame:
    def patients(self):
        return []
