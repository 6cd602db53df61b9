"""One optimiser step over all ranks, behind a protocol: the training loop does not know which engine it uses.

    engine.py          the protocol, and an engine by its name
    base.py            what all engines share: micro-batches, a loss over the global batch
    ddp.py             DistributedDataParallel
    deepspeed.py       DeepSpeed; zero.py: its configuration, made from ours
    average.py         the average of weights that is scored and saved
    optim.py           optimisers, and the learning rate of a step
    out_of_memory.py   errors that mean there was not enough memory

Imports torch.
"""
