"""Slices in image files under any names: a folder for each volume."""

from dataclasses import dataclass
from pathlib import Path

from segtrain.data.sources.images import SUFFIXES, SliceFiles, SliceSource, add_file, refuse_unpaired
from segtrain.data.sources.listing import escaped, folders_of, refuse_broken_link, refuse_odd_names, with_suffix
from segtrain.data.sources.numbering import in_order
from segtrain.errors import DataError


@dataclass(frozen=True)
class FolderSource(SliceSource):
    """Each folder below `root` is a volume, or `root` itself is the only one.

    Slices are in the order of the numbers in their names; `<name>_mask` is the mask of `<name>`, for all of a volume or
    for none.
    """

    @property
    def label(self) -> str:
        return f"slices in {escaped(str(self.root))}"

    def patients(self) -> list[str]:
        """Names of the volumes' folders, sorted. Raises DataError."""
        folders = [folder.name for folder in folders_of(self.root)]
        if not with_suffix(self.root, SUFFIXES):
            refuse_odd_names(folders, self.root)
            return folders
        if folders:
            raise DataError(
                f"{self.root}: slices beside folders ({folders[0]}), so it is not clear what is a volume; "
                "move the slices into a folder of their own"
            )
        root = self.root.resolve()
        refuse_odd_names([root.name], root.parent)
        return [root.name]

    def folder(self, patient: str) -> Path:
        return self.root if with_suffix(self.root, SUFFIXES) else self.root / patient

    def files(self, patient: str) -> SliceFiles:
        folder = self.folder(patient)
        refuse_broken_link(folder)
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        for path in with_suffix(folder, SUFFIXES):
            name = path.stem.removesuffix("_mask")
            add_file(images if name == path.stem else masks, name, path)
        if not images:
            raise DataError(
                f"{folder}: 0 slices (.tif, .png) in this folder; add them or set --images to a folder without it"
            )
        refuse_odd_names([path.name for path in images.values()], folder)
        refuse_unpaired(images, masks)
        names = in_order(list(images), folder)
        return SliceFiles(
            tuple(images[name] for name in names),
            tuple(masks[name] for name in names if masks),
            tuple(range(1, len(names) + 1)),
        )
