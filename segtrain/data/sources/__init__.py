"""Where patients come from: ONE protocol for training and predicting.

base.py      the protocol, a patient's volume
open.py      the source that a config or a folder asks for
images.py    slices in image files, read and checked
lgg.py       the published LGG layout
slices.py    plain folders of slices
nifti.py     NIfTI volumes (needs nibabel)
phantom.py   made-up patients
"""
