"""Made-up patients written to disk in the layouts of public data sets, to try a layout and to test with.

Legend: s slice, h height, w width, c channel; x, y, z the axes of a NIfTI file.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import LGG_CONTRASTS, PhantomConfig, canonical
from segtrain.data.sources.phantom import Phantom, draw
from segtrain.errors import ConfigError
from segtrain.runtime.terminal import Progress

README = "README.txt"
MADE_UP = (
    "These patients are made up by segtrain (`segtrain phantoms`): no real data, and no score on them says anything."
)
BRATS_CONTRASTS = ("t1", "t1ce", "t2", "flair")
FOUND_AS = {  # names of the contrasts in each layout's files
    "brats": {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"},
    "bids": {"t1": "T1w", "t1ce": "ce-gadolinium_T1w", "t2": "T2w", "flair": "FLAIR"},
    "nnunet": {"t1": "T1", "t1ce": "T1Gd", "t2": "T2", "flair": "FLAIR"},
}
GAIN = {"t1": 11, "t1ce": 23, "t2": 13, "flair": 9}  # grey levels of 16-bit volumes: each contrast in its own unit
LABELS = {1: "necrosis", 2: "edema", 3: "enhancing"}


@dataclass(frozen=True)
class Settings:
    """The patients to write; bits of a voxel; twin: masks of slices in a folder beside the images' folder."""

    phantom: PhantomConfig
    bits: int
    twin: bool = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between slices, rows, columns."""
        return self.phantom.spacing_mm or (1.0, 1.0, 1.0)

    @property
    def contrasts(self) -> tuple[str, ...]:
        """By their usual names."""
        return tuple(canonical(contrast) for contrast in self.phantom.contrasts)

    @property
    def patients(self) -> int:
        return self.phantom.patients


@dataclass(frozen=True)
class Layout:
    """A layout: what writes it, what it holds by default, a line of help."""

    write: Callable[[Path, Settings], None]
    contrasts: tuple[str, ...]
    regions: int
    bits: int
    doc: str


def write_phantoms(layout: str, out: Path, settings: Settings) -> None:
    """Write the patients in that layout. Raises ConfigError: a folder with something in it, no nibabel."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: has something in it already; name an empty or new folder with --out")
    LAYOUTS[layout].write(out, settings)
    what = f"Layout: {layout}, {settings.patients} scans, seed {settings.phantom.seed}."
    (out / README).write_text(f"{MADE_UP}\n{what}\n", encoding="utf-8")


def _drawn(settings: Settings, more: int = 0) -> Iterator[tuple[int, Phantom]]:
    """The patients, drawn one by one; `more` of them besides those that were asked for."""
    total = settings.patients + more
    with Progress(f"draw {total} patients", total=total, unit="patients") as bar:
        for index in range(total):
            yield index, draw(settings.phantom, index)
            bar.advance(1)


def _write_lgg(out: Path, settings: Settings) -> None:
    """`TCGA_XX_0001_20000101/TCGA_XX_0001_20000101_<k>.tif`, masks beside them."""
    if settings.contrasts != tuple(map(canonical, LGG_CONTRASTS)) or settings.bits != 8:
        raise ConfigError(
            f"--layout lgg is {', '.join(LGG_CONTRASTS)} of 8 bits; leave --contrasts and --bits out, or choose "
            "--layout slices"
        )
    for index, phantom in _drawn(settings):
        patient = f"TCGA_XX_{index + 1:04d}_20000101"
        for k, (image_hwc, mask_hw) in enumerate(zip(phantom.image_shwc, _white(phantom, settings), strict=True), 1):
            _save_image(out / patient / f"{patient}_{k}.tif", image_hwc)
            _save_image(out / patient / f"{patient}_{k}_mask.tif", mask_hw)


def _write_slices(out: Path, settings: Settings) -> None:
    """`P001/P001_<k>.png`, of three contrasts of 8 bits the colours of a file, else a grey file a contrast."""
    is_rgb = len(settings.contrasts) == 3 and settings.bits == 8
    images, masks = (out / "images", out / "masks") if settings.twin else (out, out)
    ending = "" if settings.twin else "_mask"
    for index, phantom in _drawn(settings):
        patient = f"P{index + 1:03d}"
        image_shwc = phantom.image_shwc.astype(np.uint16) * 257 if settings.bits == 16 else phantom.image_shwc
        for k, (image_hwc, mask_hw) in enumerate(zip(image_shwc, _white(phantom, settings), strict=True), 1):
            name = f"{patient}_{k:02d}"
            if is_rgb:
                _save_image(images / patient / f"{name}.png", image_hwc)
            else:
                for c, contrast in enumerate(settings.contrasts):
                    _save_image(images / patient / f"{name}_{contrast}.png", image_hwc[..., c])
            _save_image(masks / patient / f"{name}{ending}.png", mask_hw)


def _white(phantom: Phantom, settings: Settings) -> NDArray[np.uint8]:
    """uint8 [s, h, w]: black and white where there is one region, else the labels."""
    return phantom.labels_shw if settings.phantom.labels else phantom.labels_shw * np.uint8(255)


def _save_image(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def _write_brats(out: Path, settings: Settings) -> None:
    """`BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n.nii.gz`, without skull; the first two are exams of one person."""
    for index, phantom in _drawn(settings):
        person, exam = (1, index) if index < 2 else (index, 0)
        patient = f"BraTS-GLI-{person:05d}-{exam:03d}"
        stripped_shwc = phantom.image_shwc * phantom.brain_shw[..., None]
        for name, contrast_shw in zip(_names("brats", settings), _volumes(stripped_shwc, settings), strict=True):
            _save_volume(out / patient / f"{patient}-{name}.nii.gz", contrast_shw, settings)
        _save_volume(out / patient / f"{patient}-seg.nii.gz", phantom.labels_shw, settings)


def _write_bids(out: Path, settings: Settings) -> None:
    """`sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz`, truth in `derivatives/`; subject 1 has two sessions.

    Stored with x to the right and y to the front, as many converters do.
    """
    suffix = "dseg" if settings.phantom.regions > 1 or settings.phantom.unlabelled else "label-lesion_mask"
    for index, phantom in _drawn(settings):
        subject, session = (1, index + 1) if index < 2 else (index, 1)
        scan = f"sub-{subject:02d}_ses-{session}"
        folder = Path(f"sub-{subject:02d}", f"ses-{session}", "anat")
        for name, contrast_shw in zip(_names("bids", settings), _volumes(phantom.image_shwc, settings), strict=True):
            _save_volume(out / folder / f"{scan}_{name}.nii.gz", contrast_shw, settings, to_right=True)
            _write_json(out / folder / f"{scan}_{name}.json", {"Modality": "MR", "Manufacturer": "segtrain (made up)"})
        truth = out / "derivatives" / "lesions" / folder / f"{scan}_{suffix}.nii.gz"
        _save_volume(truth, phantom.labels_shw, settings, to_right=True)
    about = {"Name": "made up by segtrain", "BIDSVersion": "1.10.0"}
    _write_json(out / "dataset_description.json", about)
    derived = {**about, "GeneratedBy": [{"Name": "segtrain phantoms"}]}
    _write_json(out / "derivatives" / "lesions" / "dataset_description.json", derived)
    if suffix == "dseg":
        rows = [f"{label}\t{name}" for label, name in _names_of_labels(settings).items()]
        legend = out / "derivatives" / "lesions" / "dseg.tsv"
        legend.write_text("\n".join(["index\tname", *rows]) + "\n", encoding="utf-8")


def _write_nnunet(out: Path, settings: Settings) -> None:
    """nnU-Net's raw layout, version 2: `imagesTr/PHANTOM_0001_0000.nii.gz`, `labelsTr`, and a patient in `imagesTs`."""
    for index, phantom in _drawn(settings, more=1):
        patient = f"PHANTOM_{index + 1:04d}"
        is_training = index < settings.patients
        for c, contrast_shw in enumerate(_volumes(phantom.image_shwc, settings)):
            folder = out / ("imagesTr" if is_training else "imagesTs")
            _save_volume(folder / f"{patient}_{c:04d}.nii.gz", contrast_shw, settings)
        if is_training:
            _save_volume(out / "labelsTr" / f"{patient}.nii.gz", phantom.labels_shw, settings)
    regions = settings.phantom.labels or {"lesion": (1,)}
    labels: dict[str, Any] = {name: values[0] if len(regions) == 1 else values for name, values in regions.items()}
    ignored = {"ignore": settings.phantom.ignore[0]} if settings.phantom.ignore else {}
    about: dict[str, Any] = {
        "channel_names": {str(c): name for c, name in enumerate(_names("nnunet", settings))},
        "labels": {"background": 0, **labels, **ignored},
        "numTraining": settings.patients,
        "file_ending": ".nii.gz",
        "name": "made up by segtrain, no real data",
    }
    if settings.phantom.regions > 1:
        about["regions_class_order"] = [2, 1, 3]  # edema first: the later ones are painted over it
    _write_json(out / "dataset.json", about)


def _names_of_labels(settings: Settings) -> dict[int, str]:
    names = LABELS if settings.phantom.regions > 1 else {1: "lesion"}
    return names | dict.fromkeys(settings.phantom.ignore, "ignore")


def _names(layout: str, settings: Settings) -> list[str]:
    """The contrasts' names in the layout's files."""
    return [FOUND_AS[layout][contrast] for contrast in settings.contrasts]


def _volumes(image_shwc: NDArray[np.uint8], settings: Settings) -> list[NDArray[Any]]:
    """Each contrast [s, h, w]: uint8, or int16 in a unit of its own."""
    if settings.bits == 8:
        return [image_shwc[..., c] for c in range(image_shwc.shape[-1])]
    return [image_shwc[..., c].astype(np.int16) * np.int16(GAIN[name]) for c, name in enumerate(settings.contrasts)]


def _save_volume(path: Path, volume_shw: NDArray[Any], settings: Settings, to_right: bool = False) -> None:
    """As NIfTI with x to the left and y to the back, as slices lie, and the origin of BraTS; or both turned round."""
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: NIfTI volumes need nibabel; pip install nibabel") from error
    slice_mm, row_mm, column_mm = settings.spacing_mm
    _, height, width = volume_shw.shape
    affine = np.diag([-column_mm, -row_mm, slice_mm, 1.0])
    affine[1, 3] = (height - 1) * row_mm
    if to_right:
        volume_shw = volume_shw[:, ::-1, ::-1]
        affine = np.diag([column_mm, row_mm, slice_mm, 1.0])
        affine[0, 3] = -(width - 1) * column_mm
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume_shw.transpose(2, 1, 0)), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"made up by segtrain"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


LAYOUTS = {
    "lgg": Layout(_write_lgg, LGG_CONTRASTS, 1, 8, "a TIFF a slice, as the published LGG data"),
    "slices": Layout(_write_slices, LGG_CONTRASTS, 1, 8, "a PNG a slice, or one a contrast"),
    "brats": Layout(_write_brats, BRATS_CONTRASTS, 3, 16, "NIfTI, a folder a scan, as BraTS 2023"),
    "bids": Layout(_write_bids, ("t1", "flair"), 1, 16, "NIfTI, subjects and sessions, truth in derivatives"),
    "nnunet": Layout(_write_nnunet, BRATS_CONTRASTS, 3, 16, "NIfTI, nnU-Net's raw layout with dataset.json"),
}
