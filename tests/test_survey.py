"""`segtrain prepare --dry-run`: what is taken for what and what would be refused, without writing."""

from pathlib import Path

import pytest
from folders import write_patient
from slice_sets import config, mask, numbered, pixels, save, write_twins
from volumes import MASK, save_set
from volumes import save as save_volume

from segtrain.commands import prepare
from segtrain.data.prepare import ensure_store
from segtrain.data.survey import survey
from segtrain.runtime.process import run_command

Capture = pytest.CaptureFixture[str]


def dry_run(root: Path, capsys: Capture, *more: str) -> tuple[int, str, str]:
    """Exit code, what was shown, and the error."""
    words = ["--dry-run", "data.source=auto", f"data.root={root}", "data.validation_patients=1", *more]
    code = run_command(prepare.command, [*words, f"data.store={root.parent / 'prepared'}"])
    shown, error = capsys.readouterr()
    assert not (root.parent / "prepared").exists()
    return code, " ".join(shown.replace("│", " ").split()), error.strip()


def test_twin_folders_of_several_scans_a_person(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "in"
    write_twins(root, numbered(["TCGA_CS_0001_2000", "TCGA_CS_0001_2001", "P3"]))
    (root / "notes.txt").touch()
    (root / "images" / "front.jpg").touch()
    code, shown, error = dry_run(root, capsys)
    assert (code, error) == (0, "")
    for words in (
        "layout slices: twin folders images and masks",
        "patients 3 scans of 2 people",
        "contrasts channel_1, channel_2, channel_3: the channels, in this order",
        "truth 3 of 3 patients, such as masks/P3_1.png and 5 more",
        "passed over no slice (.png, .tif): 1 (notes.txt)",
        "passed over JPEG, which changes grey levels and labels: 1 (images/front.jpg)",
        "example P3, image: images/P3_1.png and 5 more",
        "read P3: 6 slices of 32x32, uint8, spacing not known",
        "labels in these 0: 17,136 voxels, 255: 1,296 voxels",
        "region lesion: white in masks of black and white",
    ):
        assert words in shown, words


@pytest.mark.law("L12")
def test_contrasts_in_files_of_their_own_and_a_patient_without_masks(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "in"
    for patient in "ABC":
        for number in range(1, 7):
            for seed, contrast in enumerate(("flair", "T1w", "dwi")):
                if (patient, contrast) != ("B", "T1w"):
                    save(root / patient / f"{number}_{contrast}.png", pixels(100 * seed + ord(patient) + number, 1))
            if patient != "C":
                save(root / patient / f"{number}_seg.png", mask(number))
    code, shown, error = dry_run(root, capsys)
    assert (code, error) == (0, "")
    assert "contrasts flair: 2 of 2 patients, such as A/1_flair.png and 5 more" in shown
    assert "without truth 1 left out: C" in shown
    assert "passed over dwi, not among the contrasts that are taken: 18 (A/1_dwi.png" in shown
    code, shown, error = dry_run(root, capsys, "data.contrasts=[t1, flair]")
    assert code == 2
    assert "contrasts t1: 1 of 2 patients, such as A/1_T1w.png and 5 more" in shown
    assert error.endswith(
        "1 patient has no t1 (B); leave it out of data.contrasts, or say what stands in, as in data.missing=zeros"
    )
    assert dry_run(root, capsys, "data.contrasts=[t1, flair]", "data.missing=zeros")[0] == 0


@pytest.mark.law("L12")
def test_a_question_that_many_patients_raise_is_asked_once(tmp_path: Path, capsys: Capture) -> None:
    """Of the masks of raters alone; and patients whose mask is missing are counted."""
    root = save_set(tmp_path / "in", *(f"p{n}/{name}" for n in range(8) for name in ("FLAIR", "lesion_rater1")))
    code, shown, error = dry_run(root, capsys)
    assert code == 2
    question = (
        f"{root}/p0/lesion_rater1.nii.gz: patient p0 has masks of raters alone (lesion_rater1); name one, as in "
        "data.rater=lesion_rater1 (and likewise for 7 more: p1, p2, p3, p4, p5, p6 and 1 more)"
    )
    assert error == f"segtrain: error: {question}"
    assert shown.count("would be refused") == 1
    assert "has no mask" not in shown
    for path in root.rglob("*_rater1*"):
        save_volume(path, MASK)
    assert dry_run(root, capsys, "data.rater=1")[0] == 0


@pytest.mark.law("L12")
def test_the_published_layout_and_what_would_be_refused(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "in"
    for number in range(3):
        write_patient(root / f"TCGA_XX_{number}", number)
    (root / "TCGA_XX_1" / "TCGA_XX_1_3.tif").unlink()
    for file in (root / "TCGA_XX_2").glob("*_mask.tif"):
        file.unlink()
    code, shown, error = dry_run(root, capsys)
    assert code == 2
    assert error.endswith("TCGA_XX_1_3_mask.tif: mask 3 has no slice beside it; add TCGA_XX_1_3.tif (and 1 more)")
    assert "layout lgg: slices <patient>_<k>.tif in folders of patients (TCGA_XX_0)" in shown
    assert "contrasts pre-contrast, FLAIR, post-contrast: the channels, in this order" in shown
    assert "would be refused patient TCGA_XX_2: has no mask" in shown
    code, shown, _ = dry_run(root, capsys, "data.skip_bad=true")
    assert code == 0
    assert "would be refused" not in shown


def test_people_too_few_for_the_split_are_told(tmp_path: Path) -> None:
    write_patient(tmp_path / "in" / "TCGA_XX_0", 0)
    assert "1 patients are too few" in survey(config(tmp_path / "in", "data.source=lgg").data).refusals[-1]


def test_phantoms_have_a_summary_too(capsys: Capture) -> None:
    assert run_command(prepare.command, ["--dry-run", "data.phantom={patients: 12, size_px: 64}"]) == 0
    shown = capsys.readouterr().out
    assert "12 patients" in shown
    assert "made up" in shown


def test_a_store_that_is_prepared_is_told_in_a_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "segtrain")
    write_twins(tmp_path / "in", numbered(["P01", "P02"]))
    cfg = config(tmp_path / "in", "data.source=auto").data
    ensure_store(cfg)
    lines = caplog.messages[1:5]
    assert caplog.messages[0].startswith("preparing slices in ")
    assert lines == [
        "layout: slices: twin folders images and masks",
        "patients: 2 patients",
        "truth: 2 of 2 patients, such as masks/P01_1.png and 5 more",
        "contrasts: channel_1, channel_2, channel_3",
    ]
    caplog.clear()
    ensure_store(cfg)
    assert not caplog.messages
