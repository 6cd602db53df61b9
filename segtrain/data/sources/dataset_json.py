"""dataset.json of nnU-Net (versions 1 and 2) and of the Medical Segmentation Decathlon: channels, labels, cases.

Needs no nibabel.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtrain.config import DataConfig, canonical
from segtrain.config.json_text import json_in
from segtrain.config.label_names import BACKGROUND, DATASET_JSON, IGNORE, labels_of
from segtrain.config.paths import expanded
from segtrain.data.sources.base import first_few
from segtrain.data.sources.images import NIFTI_SUFFIXES
from segtrain.data.sources.listing import with_suffix
from segtrain.errors import DataError

PICTURES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Listed:
    """A case that dataset.json lists: its label, and its images in the order of the channels, or one of all."""

    images: tuple[Path, ...]
    label: Path | None
    is_whole: bool = False


@dataclass(frozen=True)
class DatasetJson:
    """What a dataset.json says.

    channels: by number, in the spelling of `canonical`; regions: the labels of each; count: numTraining; listed: cases
    by id, where it lists them; is_whole: a file of a case holds all channels.
    """

    path: Path
    channels: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    ignore: tuple[int, ...] = ()
    endings: tuple[str, ...] = NIFTI_SUFFIXES
    count: int | None = None
    listed: Mapping[str, Listed] = field(default_factory=dict)
    is_whole: bool = False


def read_dataset_json(path: Path) -> DatasetJson:
    """What the file says. Raises DataError: not JSON, a key that is missing, files of slices."""
    try:
        about = json_in(path)
        if not isinstance(about, dict):
            raise ValueError("is no object")
        labels = labels_of(about)
        _refuse_background(labels)
        channels = _channels(about)
        endings = _endings(path, about)
        listed, is_whole = _listed(path, about, endings)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; make it readable for this user") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}; mend it, as nnU-Net's documentation of dataset.json describes") from error
    count = about.get("numTraining")
    return DatasetJson(
        path=path,
        channels=channels,
        regions={name: values for name, values in labels.items() if name.lower() not in (BACKGROUND, IGNORE)},
        ignore=labels.get(IGNORE, ()),
        endings=endings,
        count=count if isinstance(count, int) else None,
        listed=listed,
        is_whole=is_whole,
    )


def _refuse_background(labels: Mapping[str, Sequence[int]]) -> None:
    for name, values in labels.items():
        if not values or (0 in values and name.lower() != BACKGROUND):
            raise ValueError(f"names {name} as {list(values)}, but 0 is the background")


def _channels(about: Mapping[str, Any]) -> tuple[str, ...]:
    """The channels' names; of equal ones, which nnU-Net takes, the second gets a number."""
    names = about.get("channel_names", about.get("modality"))
    if not isinstance(names, Mapping) or not names:
        raise ValueError("has neither channel_names nor modality")
    if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise ValueError(f"numbers its channels {first_few(list(names))}, but they count from 0")
    ordered = [canonical(str(names.get(str(c), names.get(c)))) for c in range(len(names))]
    seen: Counter[str] = Counter()
    channels = []
    for name in ordered:
        seen[name] += 1
        channels.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(channels)


def _endings(path: Path, about: Mapping[str, Any]) -> tuple[str, ...]:
    ending = about.get("file_ending")
    if ending is None:
        return NIFTI_SUFFIXES  # version 1 has no other
    if str(ending).lower() in PICTURES:
        raise DataError(
            f"{path}: file_ending {ending} is not read as volumes; for images of two dimensions rename imagesTr to "
            "images and labelsTr to masks, drop _0000 from the images' names, and set data.source=slices (.bmp: "
            "convert them to .png first); convert stacks to .nii.gz"
        )
    if str(ending).lower() not in NIFTI_SUFFIXES:
        raise DataError(f"{path}: file_ending {ending} is not read; convert images and labels to .nii.gz")
    return (str(ending),)


def _listed(path: Path, about: Mapping[str, Any], endings: Sequence[str]) -> tuple[dict[str, Listed], bool]:
    """The cases that are listed, and whether a case's file holds all channels, as in the decathlon."""
    root = path.parent
    if cases := about.get("dataset"):
        if not isinstance(cases, Mapping):
            raise DataError(f"{path}: dataset is a {type(cases).__name__}, but cases by name belong there; mend it")
        return {str(case): _with_paths(path, str(case), files) for case, files in cases.items()}, False
    if "channel_names" in about or not isinstance(about.get("training"), list):
        return {}, False
    listed = {}
    for entry in about["training"]:
        if not isinstance(entry, Mapping) or "image" not in entry:
            raise DataError(f"{path}: {entry!r} in training has no image; mend it")
        image = _place(root, entry["image"])
        label = _place(root, entry["label"]) if "label" in entry else None
        case = image.name[: -len(ending_of(image.name, endings))]
        # Version 1 lists images without the number of a channel, so the file itself is there in the decathlon alone.
        listed[case] = Listed((image,), label, is_whole=True) if image.exists() else Listed((), label)
    is_whole = any(files.is_whole for files in listed.values()) or about.get("tensorImageSize") == "4D"
    return listed, is_whole


def _place(folder: Path, name: Any) -> Path:
    """The file of that name, there or not. Raises ValueError for what is no name of a file, or that of a folder."""
    place = folder / str(name)
    try:
        place.lstat()
        if place.exists() and not place.is_file():
            raise ValueError("not a file")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:
        raise ValueError(f"lists {str(name)[:80]!r}, which is no name of a file ({error})") from error
    return place


def _with_paths(path: Path, case: str, files: Any) -> Listed:
    """A case whose files may lie anywhere; names of variables of the environment are replaced. Raises DataError."""
    if not isinstance(files, Mapping) or not isinstance(files.get("images"), list) or not files["images"]:
        raise DataError(f"{path}: case {case} of dataset has no images; mend it")

    def place(text: Any) -> Path:
        expanded = os.path.expandvars(str(text))
        if unset := re.search(r"\$\{?\w+\}?", expanded):
            raise DataError(f"{path}: {text} of case {case} has {unset[0]}, which is not set; export it first")
        return Path(os.path.abspath(_place(path.parent, expanded)))  # noqa: PTH100  links stay what they are

    label = files.get("label")
    return Listed(tuple(map(place, files["images"])), None if label is None else place(label))


def ending_of(name: str, endings: Sequence[str]) -> str:
    """The one of `endings` that the name has, the longest; empty where it has none."""
    fitting = [name[-len(ending) :] for ending in endings if name.lower().endswith(ending.lower())]
    return max(fitting, key=len, default="")


def dataset_json_of(root: Path, trained_on: str | None = None) -> Path | None:
    """The dataset.json of a folder of images: in it, beside it, or that of the data `trained_on`."""
    folders = [root, root.resolve().parent, *([expanded(trained_on)] if trained_on else [])]
    return next((folder / DATASET_JSON for folder in folders if (folder / DATASET_JSON).is_file()), None)


def is_nnunet(root: Path, cfg: DataConfig) -> bool:
    """Whether the folder is a data set of this layout, or one of images for a run that was trained on such."""
    if (root / DATASET_JSON).is_file():
        return True
    names = [path.name for path in with_suffix(root, NIFTI_SUFFIXES)]
    is_like = any(re.search(r"_\d{4}\.nii(\.gz)?$", name, re.IGNORECASE) for name in names)
    return bool(names) and (cfg.source == "nnunet" or is_like) and dataset_json_of(root, cfg.root) is not None
