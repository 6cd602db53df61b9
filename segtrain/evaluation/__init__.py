"""A volume to numbers and pictures.

evaluate.py      validation in training: each patient whole, by one rank, once
metrics.py       counts, DSC, means with their interval, components
surface.py       distances of surfaces
scores.py        a patient's row, in the prepared and the original geometry
summary.py       the means of rows, and the rules they were made by
tta.py           probabilities averaged over flips and small rotations
ensemble.py      checkpoints as a function from slices to logits
predictions.py   what `segtrain predict` writes
overlays.py      prediction and truth over a slice; sheets of them
bars.py          a bar chart of DSC
gallery.py       pictures of what augmentation does
"""
