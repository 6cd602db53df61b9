"""From a folder of patients to batches.

sources/        folders of patients: one protocol for training and prediction
preprocess.py   a volume prepared for the network
geometry.py     where a prepared volume is in its source; there and back
zscore.py       the protocol zscore: contrasts standardised inside the head
label_table.py  what the labels of a data set are; those that do not fit together
measured.py     figures of a patient, taken while it is prepared
traps.py        what gives wrong training or scores without an error, judged by these figures
tissues.py      labels and contrasts that are not what their names say
store.py        the prepared data set on disk
building.py     a store while it is built: one builder, others wait
prepare.py      a store built from a source, by several processes
patient.py      one patient read, prepared and written
survey.py       what of a source is taken for what, without preparing it
people.py       the person whom each patient id is a scan of
published.py    the public LGG collection by name, and its ten validation patients
folds.py        the fold of each person
splits.py       the patients that train and those that validate
order.py        the slice at each position of a run
neighbours.py   slices with those around them as channels
resident.py     the training patients' slices on the device, gathered there by index
feed.py         batches of one rank, read ahead by a thread, or by workers that augment them
augment/        augmentation, drawn by position
"""
