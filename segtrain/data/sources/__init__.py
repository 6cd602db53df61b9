"""Folders of patients: one protocol for training and prediction, and the sources that implement it.

base.py      the protocol; a patient's volume
open.py      the source of a config (training) or of a folder (prediction)
listing.py   what lies in folders: without system files, links without content named; hashes of it
identity.py  a source's fingerprint, read once and remembered
images.py    what sources of image files share: pairing with masks, reading, writing
lgg.py       the published LGG layout
slices.py    folders of slices under any names
nifti.py     NIfTI volumes (needs nibabel)
phantom.py   made-up patients
"""
