"""One optimiser step over all ranks, behind a protocol: the training loop does not know which engine it uses.

    engine.py          the protocol, and an engine by its name
    base.py            what all engines share: micro-batches, a loss over the global batch
    ddp.py             DistributedDataParallel
    deepspeed.py       DeepSpeed; zero.py: its configuration, made from ours; zero_state.py: moments that are divided
    loss_scale.py      the scale of a float16 loss, and a first step that overflows
    average.py         the average of weights that is scored and saved
    graph.py           a step as one CUDA graph
    batch_norm.py      batch norm over the samples of all ranks
    transposed.py      transposed convolutions whose bias has a quick gradient on CPUs
    optim.py           optimisers, and the rates of their groups; own_optim.py: those of the user's own
    optim_state.py     the state of an optimiser as tensors and JSON
    optim_trial.py     trials of an optimiser of the user's own, on optim_bench.py; zero_trial.py: under DeepSpeed
    schedules.py       the learning rate of a step
    own_schedule.py    schedules of the user's own as tables; schedule_arguments.py: what they are called with
    precision.py       number types of products, TF32, the memory layout

Imports torch.
"""
