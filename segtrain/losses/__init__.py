"""Losses that give the same value at any world size and any micro-batch (L5), because they are made of sums.

A loss is two functions. `sums` turns logits and masks of some samples into a vector that is additive over samples;
the engine adds the vectors of all micro-batches and all ranks; `value` turns the sum over the global batch into the
loss. The gradient of each part follows from d value / d sums, so nothing else needs to travel between ranks.

There are two kinds, functions of sums over the batch and means over samples:

    loss.py         the protocol, weighted sums of losses, deep supervision
    region.py       functions of sums over all voxels of the global batch
    per_sample.py   means over samples of a value that depends on one sample alone

`segtrain.config.parts.LOSSES` has a row for each loss. MONAI's losses are reduced within a rank, so their values on two
ranks differ from that on one; the tests compare with them where one rank sees the whole batch.

Legend: b batch, h height, w width. Imports torch.
"""
