"""Networks by their name in the config, and their weights.

    make.py        a network by its name, with its initial weights
    base.py        what all networks share: images of any size in, logits out
    unet.py, resunet.py, monai.py, smp.py    networks; `segtrain.config.networks` has a row for each
    weights.py     weights from a file
    recompute.py   activation checkpointing
    cost.py        parameters and arithmetic of each network

Imports torch.
"""
