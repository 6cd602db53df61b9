"""Imported last by the process that tests fork from: what it has is no garbage, and no child looks through it again."""

import gc

gc.collect()
gc.freeze()
