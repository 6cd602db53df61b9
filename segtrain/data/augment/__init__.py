"""Augmentation of a whole batch in one call on the training device; its parameters are drawn by position (L4).

    batch.py      a batch by the name of its augmentation: drawn, moved to the device, augmented
    draws.py      what is drawn for a batch, as tensors
    geometry.py   scale, rotation, flips, elastic deformation
    intensity.py  changes of intensity; noise.py: Gaussian noise from a counter
    strong.py     `data.augment=strong`; effects.py: its effects and their options
    mix.py        copy-paste and mixup

One of the user's own works on one sample at a time, on the CPU:

    own.py        it, loaded and made, with the range that it expects; seeds.py: the generators that it draws from
    forms.py      the forms in which it may take a sample; recognise.py: those that are likely
    search.py     the form that fits, found by trying; phantoms.py: made-up samples for it
    trial.py      what would go wrong silently, tried before training
    ahead.py      worker processes, ahead of the step

Legend: b batch, h height, w width, c channel. Imports torch.
"""
