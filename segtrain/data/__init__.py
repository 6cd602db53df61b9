"""From a folder of patients to batches.

sources/        folders of patients: one protocol for training and prediction
preprocess.py   a volume prepared for the network, and back in its source's geometry
store.py        the prepared data set on disk
building.py     a store while it is built: one builder, others wait
prepare.py      a store built from a source, by several processes
survey.py       what of a source is taken for what, without preparing it
people.py       the person whom each patient id is a scan of
splits.py       the patients that train and those that validate
order.py        the slice at each position of a run
neighbours.py   slices with those around them as channels
feed.py         batches of one rank, read ahead by a thread, or by workers that augment them
augment/        augmentation, drawn by position
"""
