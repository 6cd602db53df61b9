"""Slices whose files or folders name contrasts: pictures that name none, and contrasts that look like people."""

from pathlib import Path

import pytest
from slice_sets import SLICES, config, mask, numbered, pixels, save

from segtrain.data.sources import find_source, make_source, naming, slice_names
from segtrain.errors import DataError

PEOPLE = ["P01", "P02", "P03"]


@pytest.mark.law("L12")
def test_a_picture_that_names_no_contrast_is_named_and_its_patient_s_fault_alone(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for patient in PEOPLE:
        for number in range(1, SLICES + 1):
            for contrast in ("flair", "t2"):
                save(root / patient / f"{number}_{contrast}.png", pixels(number, 1))
            save(root / patient / f"{number}_mask.png", mask(number))
    stray = root / "P02" / "overview.png"
    save(stray, pixels(0, 1))
    source = make_source(config(root).data)
    assert source.contrasts == ("t2", "flair")
    assert source.read("P01").image_shwc.shape == (SLICES, 32, 32, 2)
    with pytest.raises(DataError, match=f"^{stray}: has no contrast in its name, .*to <slice>_<contrast>.png"):
        source.read("P02")
    for number in range(1, SLICES + 1):
        for patient in PEOPLE[1:]:
            (root / patient / f"{number}_flair.png").unlink()
            (root / patient / f"{number}_t2.png").rename(root / patient / f"{number}.png")
    assert make_source(config(root).data).contrasts == ("channel_1",), "most name none"


@pytest.mark.law("L12")
def test_a_loose_picture_that_names_no_contrast_is_named(tmp_path: Path) -> None:
    for name in numbered(PEOPLE):
        for contrast in ("flair", "t2"):
            save(tmp_path / "in" / "images" / f"{name}_{contrast}.png", pixels(1, 1))
        save(tmp_path / "in" / "masks" / f"{name}.png", mask(2))
    assert make_source(config(tmp_path / "in").data).patients() == PEOPLE
    save(tmp_path / "in" / "images" / "overview.png", pixels(0, 1))
    with pytest.raises(DataError, match=r"images/overview\.png: has no contrast in its name"):
        make_source(config(tmp_path / "in").data).patients()


@pytest.mark.law("L1")
@pytest.mark.parametrize("layout", ["loose", "folders"])
def test_contrasts_of_one_head_are_not_taken_for_people(tmp_path: Path, layout: str) -> None:
    root, groups = tmp_path / "in", tmp_path / "people.csv"
    for patient in PEOPLE:
        for contrast in ("flair", "T1ce"):
            for number in range(1, SLICES + 1):
                image = f"{patient}_{contrast}{'_' if layout == 'loose' else '/'}{number}"
                save(root / f"{image}.png", pixels(number, 1))
                save(root / f"{image}_mask.png", mask(number))
    message = r"in: P01_T1ce and P01_flair seem to be contrasts of one head, .* one folder P01, as <slice>_t1ce\.png"
    with pytest.raises(DataError, match=message):
        make_source(config(root).data).patients()
    assert len(find_source(root, "slices").patients()) == 6, "to predict, they are volumes"
    ending = "" if layout == "folders" else "_{}"
    heads = [f"{patient}_{contrast}{ending}" for patient in PEOPLE for contrast in ("flair", "T1ce")]
    numbers = range(1, SLICES + 1) if ending else [1]
    groups.write_text("".join(f"{head.format(n)},{head[:3]}\n" for head in heads for n in numbers))
    patients = make_source(config(root, f"data.groups={groups}").data).patients()
    assert len(patients) == (6 if layout == "folders" else 3)


def test_slices_and_volumes_know_the_same_contrasts() -> None:
    for name in naming.OTHER_WORDS:
        assert naming.read_name(f"P1_{name}", ()).role is naming.Role.OTHER
        assert slice_names.parse_name(f"P1_{name}", slice_names.known_contrasts(None)).contrast == name


@pytest.mark.law("L1")
def test_time_points_are_no_contrasts(tmp_path: Path) -> None:
    for scan in ("P01_T1", "P01_T2", "P02_T1", "P02_T2"):
        for number in range(1, SLICES + 1):
            save(tmp_path / "in" / scan / f"{number}.png", pixels(number, 1))
            save(tmp_path / "in" / scan / f"{number}_mask.png", mask(number))
    assert len(make_source(config(tmp_path / "in").data).patients()) == 4
