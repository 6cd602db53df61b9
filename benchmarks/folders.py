"""How `segtrain doctor`, and the fingerprint of a folder of data, grow with the number of patients.

python -m benchmarks.folders                                    # 100 to 10,000 patients, on one core

Each patient has three slices of 16 px, in NIfTI files or in pairs of TIFF files, all of them links to a few files.
benchmarks/growth.py says how. Of the doctor's checks the one of the data alone depends on the number of patients.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from benchmarks.growth import Growth, Work
from segtrain.config import Config, load_config
from segtrain.runtime.process import run_command

SLICES, SIDE_PX = 3, 16
MOST_LINKS = 10_000  # to one file; ext4 takes 65,000
Layout = Callable[[Path, int, str], None]


def _make(folder: Path, patients: int) -> None:
    for layout, make in LAYOUTS.items():
        if not (folder / layout).exists():
            (folder / layout).mkdir(parents=True)
            for number in range(patients):
                make(folder, number, f"TCGA_AB_{number:06d}_19990101")


def _link(folder: Path, name: str, number: int, write: Callable[[Path], object], at: Path) -> None:
    """Another name of the file, which is written where there is none, or too many links to it."""
    root = folder / ".files"
    root.mkdir(exist_ok=True)
    block, suffix = number // MOST_LINKS, "".join(Path(name).suffixes)
    file = root / f"{name.removesuffix(suffix)}-{block}{suffix}"
    if not file.exists():
        write(file)
    at.parent.mkdir(exist_ok=True)
    at.hardlink_to(file)


def _nifti(folder: Path, number: int, patient: str) -> None:
    for kind, volume in (("flair", _image()), ("seg", _mask())):

        def write(file: Path, volume: np.ndarray = volume) -> None:
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), file)

        _link(folder, f"{kind}.nii.gz", number, write, folder / "nifti" / patient / f"{patient}_{kind}.nii.gz")


def _lgg(folder: Path, number: int, patient: str) -> None:
    for place in range(1, SLICES + 1):
        rgb = np.repeat(_image()[..., place - 1, None], 3, axis=2)
        for ending, plane in (("", rgb), ("_mask", 255 * _mask()[..., place - 1])):

            def write(file: Path, plane: np.ndarray = plane) -> None:
                Image.fromarray(plane).save(file)

            at = folder / "lgg" / patient / f"{patient}_{place}{ending}.tif"
            _link(folder, f"{place}{ending}.tif", number, write, at)


def _image() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (SIDE_PX, SIDE_PX, SLICES), np.uint8)


def _mask() -> np.ndarray:
    mask = np.zeros((SIDE_PX, SIDE_PX, SLICES), np.uint8)
    mask[4:9, 4:9] = 1
    return mask


LAYOUTS: dict[str, Layout] = {"nifti": _nifti, "lgg": _lgg}


def _config(folder: Path, layout: str) -> Config:
    return load_config(
        None,
        [f"data.source={layout}", f"data.root={folder / layout}", f"data.store={folder}/store", "data.image_size=16"],
    )


def _doctor(layout: str) -> Callable[[Path], Work]:
    def setup(folder: Path) -> Work:
        from segtrain.doctor import checks

        def work() -> None:
            finding, _, _ = checks.data(_config(folder, layout), 1)
            assert finding.state == "ok", finding

        return work

    return setup


def _fingerprint(layout: str) -> Callable[[Path], Work]:
    def setup(folder: Path) -> Work:
        from segtrain.data.sources import make_source

        return lambda: make_source(_config(folder, layout).data).fingerprint()

    return setup


GROWTH = Growth(
    "benchmarks.folders",
    "A folder of data looked through, by patients",
    "patients",
    (100, 1_000, 10_000),
    _make,
    {
        **{f"doctor, {layout}": _doctor(layout) for layout in LAYOUTS},
        **{f"fingerprint, {layout}": _fingerprint(layout) for layout in LAYOUTS},
    },
    Path(".bench/folders"),
)


def command(argv: Sequence[str]) -> int:
    """Make the folders, look through each, print the table."""
    return GROWTH.command(argv, __doc__ or "")


if __name__ == "__main__":
    sys.exit(run_command(command, sys.argv[1:]))
