"""Training on slices: twin folders, contrasts in files, 16 bits, and people (case 15 of public sets of slices)."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from golden_patients import GOLDEN_PATIENTS
from PIL import Image
from slice_sets import SLICES, config, mask, numbered, pixels, save, write_twins

from segtrain.data.prepare import ensure_store
from segtrain.data.sources import find_source, make_source
from segtrain.data.sources.slice_people import by_leading_id
from segtrain.data.splits import make_split
from segtrain.errors import DataError

PEOPLE = ["P01", "P02", "P03"]


@pytest.mark.parametrize("ending", ["", "_mask", "_segmentation", "_seg", "_gt"])
def test_twin_folders_pair_by_stem_or_stem_and_ending(tmp_path: Path, ending: str) -> None:
    write_twins(tmp_path / "in", numbered(PEOPLE), ending)
    cfg = config(tmp_path / "in").data
    store = ensure_store(cfg)
    assert list(store.patients) == PEOPLE
    assert store.contrasts == ("channel_1", "channel_2", "channel_3")
    assert [patient.lesion_voxels for patient in store.patients.values()] == [3 * 12 * 12] * 3
    assert len(make_split(cfg, store).validation) == 1


@pytest.mark.parametrize(
    ("images", "masks"), [("imgs", "labels"), ("Original", "Ground Truth"), ("image", "annotations")]
)
def test_twin_folders_have_several_names_and_patients_folders_inside(tmp_path: Path, images: str, masks: str) -> None:
    write_twins(tmp_path / "in", [f"{patient}/{number}" for patient in ("A", "B") for number in range(1, 7)])
    (tmp_path / "in" / "images").rename(tmp_path / "in" / images)
    (tmp_path / "in" / "masks").rename(tmp_path / "in" / masks)
    source = make_source(config(tmp_path / "in").data)
    assert source.patients() == ["A", "B"]
    assert source.read("B").mask_shw is not None
    np.testing.assert_array_equal(source.read("B").image_shwc[0], pixels(6))


def test_masks_lie_beside_in_a_twin_folder_of_each_patient(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        write_twins(tmp_path / "in" / patient, [str(number) for number in range(1, SLICES + 1)])
    source = make_source(config(tmp_path / "in", "data.source=auto").data)
    assert source.patients() == ["A", "B"]
    volume = source.read("A")
    assert volume.mask_shw is not None
    assert volume.slice_names == tuple("123456")


def test_an_ignored_label_is_no_second_white(tmp_path: Path) -> None:
    write_twins(tmp_path / "in", numbered(PEOPLE))
    for number, path in enumerate(sorted((tmp_path / "in" / "masks").iterdir())):
        labels = mask(3, white=1)
        labels[:4] = 2 if number % 2 else 0
        save(path, labels)
    volume = make_source(config(tmp_path / "in", "data.ignore=[2]").data).read("P01")
    assert set(volume.label_voxels) == {0, 1, 2}


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    write_twins(tmp_path / "in", numbered(PEOPLE))
    lines = [f"{name},site/{name[:3]}" for name in numbered(PEOPLE)]
    (tmp_path / "people.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"the name 'site/P01', but files are named by it"):
        make_source(config(tmp_path / "in", f"data.groups={tmp_path / 'people.csv'}").data).patients()


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("mixed", r"white is 1, but 255 in the patient's masks before it"),
        ("between", r"mask has values 0, 128, but only 0 and 255"),
        ("jpeg", r"P02_3.jpg: a JPEG as mask of slice P02_3"),
        ("short", r"P02_3.png: slice P02_3 has no mask beside it"),
        ("rgba", r"P02_3.png: 4 channel\(s\), but this file needs 3"),
        ("stray", r"P09_1.png: mask P09_1 has no slice beside it"),
        ("twice", r"a second file for slice P02_3"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, fault: str, words: str) -> None:
    root = tmp_path / "in"
    write_twins(root, numbered(PEOPLE))
    match fault:
        case "mixed":
            save(root / "masks" / "P02_4.png", mask(4, 1))
        case "between":
            save(root / "masks" / "P02_3.png", mask(3, 128))
        case "jpeg":
            (root / "masks" / "P02_3.png").unlink()
            Image.fromarray(mask(3)).save(root / "masks" / "P02_3.jpg")
        case "short":
            for number in (3, 4, 5):
                (root / "masks" / f"P02_{number}.png").unlink()
        case "rgba":
            save(root / "images" / "P02_3.png", pixels(0, 4))
        case "stray":
            save(root / "masks" / "P09_1.png", mask(1))
        case "twice":
            save(root / "images" / "P02_3.tif", pixels(0))
    with pytest.raises(DataError, match=words) as caught:
        ensure_store(config(root).data)
    assert "\n" not in str(caught.value)


def test_masks_of_0_and_1_are_as_good(tmp_path: Path) -> None:
    write_twins(tmp_path / "in", numbered(PEOPLE), white=1)
    store = ensure_store(config(tmp_path / "in").data)
    assert store.patients["P01"].lesion_voxels == 3 * 12 * 12


@pytest.mark.law("L1")
@pytest.mark.parametrize(
    "names", [[str(n) for n in range(1, 13)], numbered(["train", "val"]), numbered(["scan"]), numbered(["1", "2"], "-")]
)
def test_a_split_of_slices_whose_person_nobody_knows_is_refused_until_a_file_says_it(
    tmp_path: Path, names: list[str]
) -> None:
    """Numbers alone, kinds in place of people, one id, and series of a DICOM export."""
    root = tmp_path / "in"
    write_twins(root, names)
    with pytest.raises(DataError, match=r"in no patient's folder .* data.groups=FILE$") as caught:
        ensure_store(config(root).data)
    assert "\n" not in str(caught.value)
    groups = tmp_path / "people.csv"
    people = ["Bob" if place < len(names) // 2 else "Ann" for place in range(len(names))]
    groups.write_text("slice,person\n" + "".join(f"{n},{p}\n" for n, p in zip(names, people, strict=True)))
    cfg = config(root, f"data.groups={groups}").data
    source = make_source(cfg)
    assert source.patients() == ["Ann", "Bob"]
    assert source.files("Bob").slice_names == tuple(names[: len(names) // 2])  # type: ignore[attr-defined]
    before = source.fingerprint()
    groups.write_text(groups.read_text().replace("Ann", "Eve"))
    assert make_source(cfg).fingerprint() != before
    groups.write_text("slice,person\n" + f"{names[0]},Ann\n")
    with pytest.raises(DataError, match=r"people.csv: no line for the slice\(s\)"):
        make_source(cfg).patients()


def test_leading_ids_are_patients_where_that_is_clear() -> None:
    assert by_leading_id(["TCGA_1_1", "TCGA_1_2", "TCGA_1_3", "P2-7", "P2-9", "P2-8"]) == {
        "P2": ["P2-7", "P2-9", "P2-8"],
        "TCGA_1": ["TCGA_1_1", "TCGA_1_2", "TCGA_1_3"],
    }
    assert by_leading_id(["P1_1", "P1_2", "P1_3", "P2_1"]) is None, "a patient of one slice"
    assert by_leading_id(["P1_1", "P1_2", "P1_3", "P2_1", "P2_90", "P2_400"]) is None, "numbers with wide gaps"
    assert by_leading_id(["P1_1", "P1_2", "P1_3", "other"]) is None


@pytest.mark.parametrize("layout", ["names", "folders", "roots"])
def test_a_contrast_is_a_file_of_its_own(tmp_path: Path, layout: str) -> None:
    """By the end of the file's name, or by a folder inside a patient's, or above them."""
    root = tmp_path / "in"
    for patient in ("A", "B"):
        for number in range(1, SLICES + 1):
            for seed, contrast in enumerate(("FLAIR", "T1", "dwi")):
                if (patient, contrast) == ("B", "dwi"):
                    continue
                place = {
                    "names": f"{patient}/{number}_{contrast}.png",
                    "folders": f"{patient}/{contrast}/{number}.png",
                    "roots": f"{contrast}/{patient}/{number}.png",
                }[layout]
                save(root / place, pixels(10 * seed + number, 1))
            beside = {"names": f"{patient}/{number}_mask.png", "folders": f"{patient}/seg/{number}.png"}
            beside["folders"] = f"{patient}/masks/{number}.png"
            beside["roots"] = f"masks/{patient}/{number}.png"
            save(root / beside[layout], mask(number))
    source = make_source(config(root).data)
    assert source.contrasts == ("t1", "flair")
    volume = source.read("A")
    np.testing.assert_array_equal(volume.image_shwc[1], np.stack([pixels(12, 1), pixels(2, 1)], axis=2)[..., 0])
    assert volume.mask_shw is not None
    assert not volume.has_one_range
    named = make_source(config(root, "data.contrasts=[Flair, DWI]").data)
    assert named.contrasts == ("Flair", "DWI")
    volume = named.read("B")
    assert volume.absent == ("DWI",)
    assert not volume.image_shwc[..., 1].any()
    np.testing.assert_array_equal(volume.image_shwc[..., 0], source.read("B").image_shwc[..., 1])


@pytest.mark.law("L12")
def test_a_slice_without_one_of_its_contrasts_is_named(tmp_path: Path) -> None:
    for number in range(1, SLICES + 1):
        save(tmp_path / "in" / "A" / f"{number}_flair.png", pixels(number, 1))
        save(tmp_path / "in" / "A" / f"{number}_t2.png", pixels(number, 1))
    (tmp_path / "in" / "A" / "3_t2.png").unlink()
    with pytest.raises(DataError, match=r"in/A: slice 3 has no file of t2, unlike its other contrasts"):
        make_source(config(tmp_path / "in").data).read("A")


def test_grey_slices_are_one_contrast(tmp_path: Path) -> None:
    write_twins(tmp_path / "in", numbered(PEOPLE), channels=1)
    assert make_source(config(tmp_path / "in").data).contrasts == ("channel_1",)
    source = make_source(config(tmp_path / "in", "data.contrasts=[FLAIR]").data)
    assert source.contrasts == ("FLAIR",)
    assert source.read("P01").image_shwc.shape == (SLICES, 32, 32, 1)
    with pytest.raises(DataError, match=r"1 channel\(s\) a file, but data.contrasts names 2 \(a, b\); name 1"):
        _ = make_source(config(tmp_path / "in", "data.contrasts=[a, b]").data).contrasts


def test_names_that_end_in_one_contrast_name_the_channel(tmp_path: Path) -> None:
    for number in range(1, SLICES + 1):
        save(tmp_path / "in" / "A" / f"s{number}_flair.png", pixels(number, 1))
        save(tmp_path / "in" / "A" / f"s{number}_mask.png", mask(number))
    source = make_source(config(tmp_path / "in").data)
    assert source.contrasts == ("flair",)
    volume = source.read("A")
    assert volume.mask_shw is not None
    assert volume.slice_names[0] == "s1_flair"


def test_contrasts_of_8_and_16_bits_keep_their_white(tmp_path: Path) -> None:
    for number in range(1, SLICES + 1):
        save(tmp_path / "in" / "A" / f"{number}_flair.png", pixels(number, 1))
        save(tmp_path / "in" / "A" / f"{number}_t2.png", pixels(number, 1).astype(np.uint16) * np.uint16(3))
    volume = make_source(config(tmp_path / "in").data).read("A")
    assert volume.image_shwc.dtype == np.uint16
    np.testing.assert_array_equal(volume.image_shwc[0, ..., 0], pixels(1, 1)[..., 0].astype(np.uint16) * 3)
    np.testing.assert_array_equal(volume.image_shwc[0, ..., 1], pixels(1, 1)[..., 0].astype(np.uint16) * 257)


def test_lgg_patients_rewritten_as_16_bit_slices_give_the_same_store(lgg_root: Path, tmp_path: Path) -> None:
    """Patients, geometry, masks, areas, institutions alike; images but for the rounding of 257/65535."""
    for file in (file for patient in GOLDEN_PATIENTS for file in (lgg_root / patient).glob("*.tif")):
        (tmp_path / "tifs" / file.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tifs" / file.parent.name / file.name).symlink_to(file)
        array = np.asarray(Image.open(file))
        is_mask = file.stem.endswith("_mask")
        number = file.stem.removesuffix("_mask").rpartition("_")[2]
        name = f"{'masks' if is_mask else 'images'}/{file.parent.name}/s{number}.{'png' if is_mask else 'tif'}"
        save(tmp_path / "in" / name, array if is_mask else array.astype(np.uint16) * np.uint16(257))
    names = "data.contrasts=[pre-contrast, FLAIR, post-contrast]"
    theirs = ensure_store(config(tmp_path / "tifs", "data.source=lgg", f"data.store={tmp_path / 'lgg'}").data)
    ours = ensure_store(config(tmp_path / "in", names).data)
    assert ours.contrasts == theirs.contrasts
    assert ours.patients == theirs.patients
    for patient in theirs.patients:
        (image, mask_shw), (expected, expected_mask) = ours.volume(patient), theirs.volume(patient)
        np.testing.assert_array_equal(mask_shw, expected_mask)
        np.testing.assert_allclose(image, expected, rtol=2**-10, atol=2**-12)
        assert (image == expected).mean() > 0.99


IMAGEJ = "ImageJ=1.54f\nunit=mm\nspacing=5.0\n"


@pytest.mark.parametrize(
    ("description", "resolution", "spacing"),
    [
        (IMAGEJ, (2.0, 4.0), (5.0, 0.25, 0.5)),
        (IMAGEJ.replace("mm", "inch"), (2.0, 4.0), None),
        (IMAGEJ.replace("spacing=5.0\n", ""), (2.0, 4.0), None),
        ("", (72.0, 72.0), None),
    ],
)
def test_the_spacing_of_slices_is_kept_where_a_tiff_has_it_in_mm(
    tmp_path: Path, description: str, resolution: tuple[float, float], spacing: tuple[float, float, float] | None
) -> None:
    for number in range(3):
        file = tmp_path / "P1" / f"s_{number}.tif"
        file.parent.mkdir(exist_ok=True)
        tifffile.imwrite(
            file, np.full((8, 8), number, np.uint8), resolution=resolution, description=description or None
        )
    assert find_source(tmp_path, "slices").read("P1").spacing_mm == spacing
