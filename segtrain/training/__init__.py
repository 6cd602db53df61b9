"""From a config to a trained run.

start.py         what happens before the first step, and after the last
preflight.py     the same, dry
build.py         network, loss and engine, put together
loop.py          the training loop
micro_batch.py   steps that fit into memory
watch.py         what each rank uses and where it stands
"""
