"""Losses that give the same value at any world size and any micro-batch (L5).

Ours are made of sums. A loss is two functions: `sums` turns logits and masks of some samples into a vector that is
additive over samples; the engine adds the vectors of all micro-batches and all ranks; `value` turns the sum over the
global batch into the loss. The gradient of each part follows from d value / d sums, so nothing else needs to travel
between ranks. A loss of the user's own that is no sum gets the logits of the whole global batch instead.

    loss.py          the protocol, weighted sums of losses, deep supervision
    region.py        functions of sums over all voxels of the global batch
    per_sample.py    means over samples of a value that depends on one sample alone

    own.py           a loss of the user's own behind the protocol
    own_function.py  a class, function, object or factory as a function of prediction and mask
    convention.py    the forms of prediction and mask that losses take
    probe.py         one trial of a loss in one of them
    search.py        the one in which it behaves as a loss
    trial.py         the laws that apply to it, and silent traps
    alone.py         no other ranks for a while

`segtrain.config.parts.LOSSES` has a row for each loss of ours. MONAI's losses are reduced within a rank, so their
values on two ranks differ from that on one; the tests compare with them where one rank sees the whole batch.

Legend: b batch, h height, w width. Imports torch.
"""
