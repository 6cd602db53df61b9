"""Networks by their name in the config, and their weights.

    make.py        a network by its name, with its initial weights
    base.py        what all networks share: images of any size in, logits out
    unet.py, resunet.py, resenc.py, monai.py, smp.py    networks; `segtrain.config.networks` has a row for each
    own.py         networks of the user's own, as they stand, from
        blueprint.py   their class or factory, with arguments by name
        trial.py       trials of them: sizes.py what they take; heads.py, outputs.py, graph.py what they give; traps.py
    weights.py     weights from a file
    pooling.py     a pooling that needs less memory, bit for bit torch's
    joining.py     blocks that keep a skip connection once
    recompute.py   activation checkpointing
    cost.py        parameters and arithmetic of each network

Imports torch.
"""
