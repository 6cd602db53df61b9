"""The one way to a source: by config for training, by what is in the folder for prediction."""

from pathlib import Path
from typing import Literal

from segtrain.config import DataConfig
from segtrain.data.sources.base import ListsRest, Source
from segtrain.data.sources.candidates import has_volumes
from segtrain.data.sources.dataset_json import is_nnunet
from segtrain.data.sources.images import NIFTI_SUFFIXES, SUFFIXES
from segtrain.data.sources.lgg import LggSource, has_slices
from segtrain.data.sources.listing import (
    deeper_root,
    entries_of,
    escaped,
    folders_of,
    is_broken_link,
    is_folder,
    require_folder,
    with_suffix,
)
from segtrain.data.sources.phantom import PhantomSource
from segtrain.data.sources.slices import FolderSource
from segtrain.errors import ConfigError, DataError

LayoutName = Literal["auto", "lgg", "slices", "nifti", "nnunet"]
LAYOUTS: dict[LayoutName, str] = {
    "auto": "by what lies in the folder",
    "lgg": "<patient>/<patient>_<k>.tif",
    "slices": "each folder of .tif or .png images is a volume, in the order of the numbers in their names",
    "nifti": ".nii or .nii.gz volumes",
    "nnunet": "nnU-Net's raw layout with dataset.json, or a folder like its imagesTs",
}
LAYOUT_OF: dict[str, LayoutName] = {"auto": "auto", "slices": "slices", "nifti": "nifti", "nnunet": "nnunet"}


def make_source(cfg: DataConfig) -> Source:
    """The source that `data.source` names."""
    if cfg.source == "phantom":
        return PhantomSource(cfg.phantom)
    assert cfg.root is not None, "loading checks it"
    root = Path(cfg.root).expanduser()
    if cfg.source == "lgg":
        return LggSource(root, cfg)
    return find_source(root, LAYOUT_OF[cfg.source], cfg, for_training=True)


def find_source(root: Path, layout: LayoutName, cfg: DataConfig | None = None, for_training: bool = False) -> Source:
    """The source in the folder `root`, in a layout by name or by its files; `cfg` names contrasts and labels.

    Raises DataError; ConfigError without nibabel.
    """
    cfg = cfg or DataConfig()
    require_folder(root, "set --images to the folder that holds the patients")
    if layout == "auto":
        layout = "nnunet" if is_nnunet(root, cfg) else _layout_of(root)
    elif layout != "nnunet":
        has_data = has_volumes(root) if layout == "nifti" else _has(root, SUFFIXES)
        if not has_data:
            raise DataError(f"{root}: nothing in it for --layout {layout} ({LAYOUTS[layout]}); choose another")
    if layout in ("nifti", "nnunet"):
        return _volume_source(layout, root, cfg, for_training)
    return LggSource(root, cfg) if layout == "lgg" else FolderSource(root, cfg)


def _volume_source(layout: str, root: Path, cfg: DataConfig, for_training: bool) -> Source:
    try:
        from segtrain.data.sources.nifti import NiftiSource
        from segtrain.data.sources.nnunet import NnunetSource
    except ModuleNotFoundError as error:
        raise ConfigError(f"{root}: NIfTI volumes need nibabel; pip install nibabel") from error
    kind = NnunetSource if layout == "nnunet" else NiftiSource
    return kind(root, cfg, for_training)


def _layout_of(root: Path) -> LayoutName:
    """One name of the LGG layout makes the whole folder that layout; files that do not fit it are then an error."""
    folders = folders_of(root)
    if any(with_suffix(folder, NIFTI_SUFFIXES) for folder in (root, *folders)):
        return "nifti"
    if not _has(root, SUFFIXES):
        deeper = deeper_root(root, lambda folder: _has(folder, (*NIFTI_SUFFIXES, *SUFFIXES)))
        raise DataError(
            f"{root}: 0 patient folders, slices (.tif, .png) or NIfTI volumes (.nii, .nii.gz) in it; set --images to "
            + (str(deeper) if deeper else "the folder that holds them")
        )
    return "lgg" if any(map(has_slices, folders)) else "slices"


def _has(root: Path, suffixes: tuple[str, ...]) -> bool:
    return any(with_suffix(folder, suffixes) for folder in (root, *folders_of(root)))


def not_taken(root: Path, source: Source) -> list[str]:
    """What lies in the folder, or in a folder of it with files for the source, and is not read. Raises DataError."""
    if isinstance(source, ListsRest):
        return sorted(name for names in source.passed_over().values() for name in names)
    folders = folders_of(root)
    files = {entry.name for entry in entries_of(root)} - {folder.name for folder in folders}
    takes_files = not isinstance(source, LggSource)
    names = [name for name in files if not (takes_files and source.takes(name))]
    for folder in folders:
        if is_broken_link(folder):  # reading the patient names it
            continue
        is_taken = {entry.name: source.takes(entry.name) and not is_folder(entry) for entry in entries_of(folder)}
        if any(is_taken.values()):
            names += [f"{folder.name}/{name}" for name, taken in is_taken.items() if not taken]
        else:
            names.append(folder.name)
    return sorted(map(escaped, names))
