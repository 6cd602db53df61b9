"""What `segtrain predict` reads, and masks in the format of what was read: the LGG layout, or plain folders of slices.

NIfTI volumes are in `nifti`. Legend: s slice, h height, w width, c channel (pre-contrast, FLAIR, post-contrast).
"""

from pathlib import Path
from typing import Literal

from segtrain.config import DataConfig
from segtrain.data.sources.base import Inputs, Source
from segtrain.data.sources.images import (
    NIFTI_SUFFIXES,
    SUFFIXES,
    folders_of,
    readable,
    with_suffix,
)
from segtrain.data.sources.lgg import SLICE, LggSource
from segtrain.data.sources.phantom import PhantomSource
from segtrain.data.sources.slices import FolderSource, SliceInputs
from segtrain.errors import ConfigError, DataError

LayoutName = Literal["auto", "lgg", "slices", "nifti"]
LAYOUTS: dict[LayoutName, str] = {
    "auto": "by what lies in the folder",
    "lgg": "<patient>/<patient>_<k>.tif",
    "slices": "each folder of .tif or .png images is a volume, in the order of the numbers in their names",
    "nifti": ".nii or .nii.gz volumes",
}


def open_inputs(root: Path, layout: LayoutName) -> Inputs:
    """What lies in `root`, in the layout that is named or found. Raises DataError; ConfigError without nibabel."""
    with readable(root):
        there = root.is_dir()
    if not there:
        raise DataError(f"{root}: no such folder; set --images to the folder that holds the patients")
    folders = folders_of(root)
    everywhere = [root, *folders]
    if layout == "auto":
        layout = _layout(root, folders)
    elif not any(with_suffix(folder, NIFTI_SUFFIXES if layout == "nifti" else SUFFIXES) for folder in everywhere):
        raise DataError(f"{root}: nothing in it for --layout {layout} ({LAYOUTS[layout]}); choose another")
    if layout == "nifti":
        try:
            from segtrain.data.sources.nifti import NiftiInputs
        except ModuleNotFoundError as error:
            remedy = "NIfTI volumes need nibabel; pip install 'segtrain[nifti]'"
            raise ConfigError(f"{root}: {remedy}") from error
        return NiftiInputs(root)
    return SliceInputs(LggSource(root, masks_needed=False) if layout == "lgg" else FolderSource(root))


def _layout(root: Path, folders: list[Path]) -> LayoutName:
    """A name of the LGG layout in any folder makes all of it that: what does not fit is an error then."""
    if any(with_suffix(folder, NIFTI_SUFFIXES) for folder in (root, *folders)):
        return "nifti"
    slices = {folder: with_suffix(folder, SUFFIXES) for folder in (root, *folders)}
    if not any(slices.values()):
        raise DataError(
            f"{root}: 0 patient folders, slices (.tif, .png) or NIfTI volumes (.nii, .nii.gz) in it; set --images to "
            "the folder that holds them"
        )
    lgg = any(
        (match := SLICE.match(path.name)) is not None and match["patient"] == folder.name
        for folder in folders for path in slices[folder]
    )  # fmt: skip
    return "lgg" if lgg else "slices"


def make_source(cfg: DataConfig) -> Source:
    """The source that `data.source` names."""
    if cfg.source == "phantom":
        return PhantomSource(cfg.phantom)
    assert cfg.root is not None, "loading checks it"
    return LggSource(Path(cfg.root).expanduser())
