"""Folders of patients: one protocol for training and prediction, and the sources that implement it.

base.py       the protocol; a patient's volume
open.py       the source of a config (training) or of a folder (prediction)
detection.py  the layout of a folder
listing.py    what lies in folders: without system files, links without content named; hashes of it
identity.py   a source's fingerprint, read once and remembered
images.py     what sources of image files share: pairing with masks, reading, writing
pixels.py     an image file's pixels, read exactly
kinds.py      kinds of image files, and those that are refused
labels.py     masks' values
numbering.py  the order of slices by the numbers in their names
levels.py     grey levels of contrasts in any unit
remarks.py    remarks of libraries on files
lgg.py        the published LGG layout
slices.py     slices under any names: a folder a patient, or twin folders
slice_folders.py  where their files lie
slice_names.py    what their names say
slice_contrasts.py  the contrasts that they say
slice_people.py   whose slices are that lie in no patient's folder
volumes.py    what sources of NIfTI volumes share: reading, writing (needs nibabel, so it is imported on demand)
cases.py      a patient's files of volumes
nifti.py      NIfTI volumes found by the names of files and folders, or where data.files says
naming.py     what the name of a volume's file says
candidates.py the volumes below a folder, grouped by patient
truths.py     the truth among a patient's masks
placed.py     files where data.files says
grids.py      grids of volumes: compared, turned to slices, resampled
nnunet.py     nnU-Net's raw layout and the Medical Segmentation Decathlon
dataset_json.py  what their dataset.json says
licence.py    the licence that a data set states
headers.py    NIfTI files and what their headers say
phantom.py    made-up patients
anatomy.py    how they are drawn
own.py        a source of the user's own
own_volume.py what such a source reads, checked
"""

from segtrain.data.sources.base import (
    FLAIR,
    LISTED,
    Pixels,
    Source,
    Volume,
    fill_missing,
    first_few,
    missing_contrasts,
    read_with_mask,
    stand_in_of,
)
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.lgg import LggSource
from segtrain.data.sources.open import LAYOUTS, find_source, make_source, not_taken, with_layout
from segtrain.data.sources.phantom import PhantomSource
from segtrain.data.sources.slices import FolderSource

__all__ = [
    "FLAIR",
    "LAYOUTS",
    "LISTED",
    "FolderSource",
    "LabelRules",
    "LggSource",
    "PhantomSource",
    "Pixels",
    "Source",
    "Volume",
    "fill_missing",
    "find_source",
    "first_few",
    "make_source",
    "missing_contrasts",
    "not_taken",
    "read_with_mask",
    "stand_in_of",
    "with_layout",
]
