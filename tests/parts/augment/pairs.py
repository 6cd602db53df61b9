"""Augmentations in the forms in which people write them."""

import random

import numpy as np
import torch
from PIL import Image


def fog(image, mask, density=0.3):
    """NumPy, value only."""
    haze = np.random.rand(*image.shape[:2])[..., None].astype(np.float32)
    return image + density * haze, mask


def flip(image, mask):
    """NumPy, both moved."""
    if random.random() < 0.5:
        image, mask = np.fliplr(image).copy(), np.fliplr(mask).copy()
    return image, mask


def flip_tensors(image, mask):
    """Tensors [c, h, w]."""
    if torch.rand(1) < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    return image + 0.1 * torch.randn_like(image), mask


def shift_means(image, mask):
    """A reduction of tensors, whose bits depend on the number of threads."""
    return image - torch.rand(1) * image.abs().mean(), mask


def mask_first(mask, image):
    turns = np.random.randint(4)
    return np.rot90(mask, turns), np.rot90(image, turns)


def by_name(*, image, label):
    return {"image": image + np.float32(random.gauss(0, 0.1)), "label": label}


def optional(image, mask=None):
    """Called with the image alone at prediction."""
    if random.random() < 0.5:
        image, mask = image[::-1], None if mask is None else mask[::-1]
    return image if mask is None else (image, mask)


def brighter(img):
    """The image alone."""
    return img + np.float32(np.random.uniform(-0.3, 0.3))


class TupleFlip:
    """One tuple of channels-last arrays."""

    def __init__(self, chance=0.5):
        self.chance = chance

    def __call__(self, sample):
        image, mask = sample
        if np.random.rand() > self.chance:
            return image, mask
        return np.fliplr(image).copy(), np.fliplr(mask).copy()


class TupleTurn:
    """One tuple of tensors; the angle is drawn when it is made."""

    def __init__(self):
        self.turns = random.randint(1, 3)

    def __call__(self, data):
        image, mask = data
        return torch.rot90(image, self.turns, (-2, -1)), torch.rot90(mask, self.turns, (-2, -1))


class Labelled:
    """A mapping of arrays in, of tensors out."""

    def __init__(self, output_size=None):
        self.output_size = output_size

    def __call__(self, sample):
        image, label = sample["image"], sample["label"]
        if random.random() > 0.5:
            turns, axis = np.random.randint(0, 4), np.random.randint(0, 2)
            image, label = (np.flip(np.rot90(array, turns), axis=axis).copy() for array in (image, label))
        return {"image": torch.from_numpy(image.transpose(2, 0, 1)), "label": torch.from_numpy(label).long()}


class Pictures:
    """One tuple of PIL's images."""

    def __call__(self, pair):
        image, mask = pair
        if np.random.random() < 0.5:
            image, mask = (one.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for one in (image, mask))
        return image, mask


class OwnGenerator:
    """Keeps a generator, seeded by the system."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def __call__(self, image, mask):
        return image + self.rng.normal(0, 0.1, image.shape), mask


RNG = np.random.default_rng(7)


def noisy(image, mask):
    """Draws from a generator of the module."""
    return image + RNG.normal(0, 0.1, image.shape), mask


class Flow(torch.nn.Module):
    """A module of torch."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor):
        shift = int(torch.randint(-5, 6, ()))
        return image.roll(shift, -1), mask.roll(shift, -1)


def make_fog(density=0.2):
    """A factory."""

    def augment(image, mask):
        return fog(image, mask, density)

    return augment


ready = TupleFlip(0.3)
