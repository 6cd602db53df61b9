"""Augmentation of a whole batch in one call on the training device; its parameters are drawn by position (L4).

    batch.py      a batch by the name of its augmentation: drawn, moved to the device, augmented
    draws.py      what is drawn for a batch, as tensors
    geometry.py   scale, rotation, flips, elastic deformation
    intensity.py  changes of intensity; noise.py: Gaussian noise from a counter
    strong.py     the effects of `data.augment=strong`
    mix.py        copy-paste and mixup

Legend: b batch, h height, w width, c channel. Imports torch.
"""
