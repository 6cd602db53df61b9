"""Names of slices' files and of their folders: mask or image, the contrast, what identifies the slice."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from segtrain.config import canonical
from segtrain.config.regions import SPELLINGS
from segtrain.data.sources.naming import OTHER_WORDS

MASK_ENDINGS = ("_mask", "_segmentation", "_seg", "_gt")
# Twin folders: the files of one are the masks of the other's.
IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "original"})
MASK_FOLDERS = frozenset({"masks", "mask", "labels", "ground truth", "ground_truth", "gt", "annotations"})
ORDER = (*SPELLINGS, *sorted(OTHER_WORDS))  # of contrasts that no config puts in order
TIMES_TOO = frozenset({"t1", "t2"})  # a folder of this name alone may be a time point
_ENDING = re.compile(r"^(?P<key>.*)[_-](?P<what>[^_-]+(?:-contrast)?)$", re.DOTALL)


@dataclass(frozen=True)
class SliceName:
    """What a file's name says.

    whole: the name without the ending of a mask; key: also without the contrast's; contrast: in the spelling of
    `canonical`, None where the name has none.
    """

    whole: str
    is_mask: bool
    contrast: str | None = None
    key: str = ""


def parse_name(stem: str, known: Collection[str], in_masks: bool = False) -> SliceName:
    """What the name of a file says, without its suffix. known: contrasts in the spelling of `canonical`.

    in_masks: whether the file is in a folder of masks.
    """
    lower = stem.lower()
    ending = next((ending for ending in MASK_ENDINGS if lower.endswith(ending) and lower != ending), "")
    whole = stem[: len(stem) - len(ending)]
    match = _ENDING.match(whole)
    if match and match["key"] and canonical(match["what"]) in known:
        return SliceName(whole, bool(ending) or in_masks, canonical(match["what"]), match["key"])
    return SliceName(whole, bool(ending) or in_masks, None, whole)


def known_contrasts(named: Iterable[str] | None) -> frozenset[str]:
    """The contrasts that names of files may end in: common ones and those that the config names."""
    return frozenset((*SPELLINGS, *OTHER_WORDS, *map(canonical, named or ())))


def in_usual_order(contrasts: Iterable[str]) -> tuple[str, ...]:
    """Contrasts in ORDER, others after these by name."""
    places = {name: place for place, name in enumerate(ORDER)}
    return tuple(sorted(contrasts, key=lambda name: (places.get(name, len(places)), name)))


@dataclass(frozen=True)
class FolderNames:
    """What the folders in one folder are: `images` and `masks` are twins; `contrasts`: a folder a contrast."""

    images: frozenset[str] = frozenset()
    masks: frozenset[str] = frozenset()
    contrasts: frozenset[str] = frozenset()


def folder_names(names: Iterable[str], is_root: bool, has_slices: bool, known: Collection[str]) -> FolderNames:
    """What the folders of a folder are by their names; a name that says nothing is a patient's.

    has_slices: whether files of slices lie beside the folders.
    """
    names = list(names)
    images = frozenset(name for name in names if name.lower() in IMAGE_FOLDERS)
    masks = frozenset(name for name in names if name.lower() in MASK_FOLDERS)
    contrasts = frozenset(name for name in names if canonical(name) in known)
    several = {canonical(name) for name in contrasts}
    if masks and (images or several - TIMES_TOO or len(several) > 1):
        return FolderNames(images, masks, contrasts)
    if not is_root:
        return FolderNames(masks=masks if has_slices or contrasts else frozenset(), contrasts=contrasts)
    if masks and has_slices:
        return FolderNames(masks=masks)
    return FolderNames(contrasts=contrasts if len(several) > 1 and several - TIMES_TOO else frozenset())
