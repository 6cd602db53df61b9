"""torchvision.transforms.v2, and a function that gives it plain tensors."""

import torch
from torchvision.transforms import v2

both = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomAffine(15), v2.RandomResizedCrop((64, 64), antialias=True)])
_flip = v2.RandomHorizontalFlip(0.5)


def plain(image, mask):
    """Moves the image alone where both are plain tensors."""
    if not isinstance(image, torch.Tensor):
        raise TypeError("a tensor belongs here")
    return _flip(image, mask)
