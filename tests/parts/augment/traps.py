"""Augmentations that would go wrong silently."""

import random

import numpy as np
import torch


def image_only(image, mask):
    """The mask stays where it was."""
    return (np.fliplr(image).copy(), mask) if random.random() < 0.5 else (image, mask)


def draws_twice(image, mask):
    """One transform called twice."""

    def once(array):
        return np.fliplr(array).copy() if random.random() < 0.5 else array

    return once(image), once(mask)


def slightly(image, mask):
    """A shift of up to 4 px of the image alone."""
    return np.roll(image, random.randint(-4, 4), axis=1), mask


def clips(image, mask):
    """Expects 0 to 1."""
    return np.clip(image * np.random.uniform(0.9, 1.1), 0, 1), mask


def normalises(image, mask):
    """Expects 0 to 255."""
    return (image / 255 - 0.485) / 0.229 + np.random.rand() * 1e-3, mask


def needs_bytes(image, mask):
    if image.dtype != np.uint8:
        raise TypeError(f"expected uint8, not {image.dtype}")
    return np.clip(image.astype(int) + np.random.randint(-9, 10), 0, 255).astype(np.uint8), mask


def blurs_mask(image, mask):
    """Linear interpolation of both."""
    share = np.float32(random.random())
    return image, (1 - share) * mask + share * np.roll(mask, 1, axis=0)


def crops(image, mask):
    return image[4:-4, 4:-4], mask[4:-4, 4:-4]


def not_finite(image, mask):
    return np.log(image + np.random.rand()), mask


def nothing_back(image, mask):
    image += np.random.rand()


def to_tensor(image, mask):
    return torch.from_numpy(image.transpose(2, 0, 1))


def entropy(image, mask):
    """A new generator for each call."""
    return image + np.random.default_rng().normal(0, 0.1, image.shape), mask


class Counts:
    """Goes on from sample to sample."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image, mask):
        self.calls += 1
        return image + np.float32(0.01 * self.calls), mask


class EntropyWhenMade:
    def __init__(self):
        self.shift = np.float32(np.random.default_rng().normal())

    def __call__(self, image, mask):
        return image + self.shift * np.float32(np.random.rand()), mask


def nothing(image, mask):
    return image, mask


def three(image, mask, distance_map):
    return image, mask


def rarely_fails(image, mask):
    if random.random() < 0.3:
        raise ValueError("empty crop")
    return image, mask


def names_lost(image, mask):
    return {"image": image}
