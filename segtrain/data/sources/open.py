"""The one way to a source: by config for training, by what is in the folder for prediction."""

from dataclasses import replace
from pathlib import Path

from segtrain.config import DataConfig, Reference, name_of
from segtrain.config.label_names import DATASET_JSON
from segtrain.config.paths import expanded
from segtrain.data.sources.base import ListsRest, Source
from segtrain.data.sources.candidates import has_volumes
from segtrain.data.sources.dataset_json import is_nnunet
from segtrain.data.sources.detection import Detected, LayoutName, detect, holds_data
from segtrain.data.sources.lgg import LggSource
from segtrain.data.sources.listing import (
    entries_of,
    escaped,
    folders_of,
    is_broken_link,
    is_folder,
    require_folder,
)
from segtrain.data.sources.own import OwnSource
from segtrain.data.sources.phantom import PhantomSource
from segtrain.data.sources.slice_folders import SUFFIXES
from segtrain.data.sources.slices import FolderSource
from segtrain.errors import ConfigError, DataError

LAYOUTS: dict[LayoutName, str] = {
    "auto": "by what lies in the folder",
    "lgg": "<patient>/<patient>_<k>.tif",
    "slices": "each folder of .tif or .png images is a volume, in the order of the numbers in their names",
    "nifti": ".nii or .nii.gz volumes",
    "nnunet": "nnU-Net's raw layout with dataset.json, or a folder like its imagesTs",
}
LAYOUT_OF: dict[str, LayoutName] = {name: name for name in LAYOUTS}


def make_source(cfg: DataConfig) -> Source:
    """The source that `data.source` names, for training. Raises DataError; ConfigError: an own part, no nibabel."""
    name = name_of(cfg.source)
    if Reference.parse(name):
        return OwnSource(cfg)
    if name == "phantom":
        return PhantomSource(cfg.phantom)
    if name == "auto":
        return make_source(with_layout(cfg))
    assert cfg.root is not None, "loading checks it"
    root = expanded(cfg.root)
    if name != "lgg":
        require_folder(root, "set data.root to the folder that holds the patients")
    return _source(root, LAYOUT_OF[name], cfg, for_training=True)


def detected(cfg: DataConfig) -> Detected | None:
    """The layout that `data.source=auto` finds; None where the source is named. Raises DataError."""
    if cfg.source != "auto":
        return None
    assert cfg.root is not None, "loading checks it"
    root = expanded(cfg.root)
    require_folder(root, "set data.root to the folder that holds the patients")
    return detect(root, "data.root")


def with_layout(cfg: DataConfig) -> DataConfig:
    """The config with the layout that `data.source=auto` finds, so that the store is the same as by its name."""
    layout = detected(cfg)
    return cfg if layout is None else replace(cfg, source=layout.layout)


def find_source(root: Path, layout: LayoutName, cfg: DataConfig | None = None, for_training: bool = False) -> Source:
    """The source in the folder `root`, in a layout by name or by its files; `cfg` names contrasts and labels.

    `auto` is the source of the user's own, where the run has one. Raises DataError; ConfigError without nibabel.
    """
    cfg = cfg or DataConfig()
    require_folder(root, "set --images to the folder that holds the patients")
    if layout == "auto":
        if Reference.parse(name_of(cfg.source)):
            return OwnSource(replace(cfg, root=str(root)))
        is_of_images = not (root / DATASET_JSON).is_file() and is_nnunet(root, cfg)
        layout = "nnunet" if is_of_images else detect(root, "--images").layout
    elif layout != "nnunet":
        has_data = has_volumes(root) if layout == "nifti" else holds_data(root, SUFFIXES, levels=3)
        if not has_data:
            raise DataError(f"{root}: nothing in it for --layout {layout} ({LAYOUTS[layout]}); choose another")
    return _source(root, layout, cfg, for_training)


def _source(root: Path, layout: LayoutName, cfg: DataConfig, for_training: bool) -> Source:
    if layout == "lgg":
        return LggSource(root, cfg)
    if layout == "slices":
        return FolderSource(root, cfg, for_training)
    try:
        from segtrain.data.sources.nifti import NiftiSource
        from segtrain.data.sources.nnunet import NnunetSource
    except ModuleNotFoundError as error:
        raise ConfigError(f"{root}: NIfTI volumes need nibabel; pip install nibabel") from error
    kind = NnunetSource if layout == "nnunet" else NiftiSource
    return kind(root, cfg, for_training)


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
