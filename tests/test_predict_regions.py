"""Predictions of several regions: masks in a folder each, one map of labels, two panes, bars and scores a region."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from predictions import IMAGE, MASK, NEW_IMAGE, NEW_MASK, read, table
from region_stores import REGIONS, logits, nested

from segtrain.commands.predict import command
from segtrain.config import IGNORED, DataConfig, EvaluateConfig, MaskLayout, PhantomConfig
from segtrain.data.masks import bits_of, regions_of
from segtrain.data.sources.base import Volume, plain_slice_names
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.phantom import PhantomSource
from segtrain.evaluation.bars import BLUE, Bar, chart
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.evaluation.label_map import label_map
from segtrain.evaluation.overlays import REGION_COLOURS, YELLOW, drawn, shown_contrast
from segtrain.evaluation.predictions import predict_source
from segtrain.evaluation.predictor import Predictor
from segtrain.run import Run
from segtrain.runtime.process import run_command

BRATS = {"whole": (1, 2, 4), "core": (1, 4), "enhancing": (4,)}
SETS = [BRATS, {"edema": (2,), "tumor core": (1, 3), "rest": (7,)}, {"all": (1, 300), "one": (300,)}]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), regions=st.sampled_from(SETS))
def test_a_truth_painted_in_labels_is_read_as_the_same_regions(seed: int, regions: dict[str, tuple[int, ...]]) -> None:
    labels = np.random.default_rng(seed).choice([0, *sorted({v for r in regions.values() for v in r})], (3, 5, 4))
    rules, layout = LabelRules(regions), MaskLayout(tuple(regions))
    bits = rules.bits(Path("truth"), labels)
    painted = label_map(regions_of(bits, layout), regions)
    if regions is not SETS[1]:  # there labels 1 and 3 are one region
        np.testing.assert_array_equal(painted, labels)
    np.testing.assert_array_equal(rules.bits(Path("painted"), painted), bits)


def test_a_voxel_has_the_label_all_of_whose_regions_are_predicted() -> None:
    """By hand: enhancing alone is no label; whole and enhancing without core is what whole alone is."""
    predicted = np.array([[0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]], bool)
    assert label_map(predicted, BRATS).tolist() == [0, 2, 1, 4, 0, 2]
    assert label_map(np.ones((2, 1), bool), {"a": (5, 9), "b": (9, 5)}).tolist() == [5], "of equals the first"


@dataclass(frozen=True)
class Labelled(PhantomSource):
    """Two patients with labels; one person's in their ids. Writes maps of labels as NIfTI volumes do."""

    config: PhantomConfig = field(default_factory=PhantomConfig)
    written: dict[str, NDArray[Any]] = field(default_factory=dict)

    def patients(self) -> list[str]:
        return ["P_ses-1", "P_ses-2", "Q"]

    def slices(self, patient: str) -> int:
        return len(IMAGE)

    def read(self, patient: str) -> Volume:
        mask = nested(MASK) if patient != "Q" else None
        image = IMAGE.astype(np.uint16) * 100
        return Volume(image, mask, plain_slice_names(len(IMAGE)), tuple(range(1, len(IMAGE) + 1)))

    def write_labels(self, patient: str, labels_shw: NDArray[Any], folder: Path) -> list[Path]:
        folder.mkdir(exist_ok=True)
        self.written[patient] = labels_shw
        np.save(folder / f"{patient}.npy", labels_shw)
        return [folder / f"{patient}.npy"]


def by_hand(cfg: DataConfig) -> Any:
    """In place of `opened`: a network made by hand."""

    @contextmanager
    def opened(checkpoints: Sequence[object]) -> Iterator[Predictor]:
        yield Predictor(logits, EvaluateConfig(), torch.device("cpu"), layout=cfg.layout)

    return opened


def voxels(file: Path) -> NDArray[Any]:
    image: Any = nibabel.load(file)
    return np.asarray(image.dataobj)


@pytest.fixture(scope="module")
def of_regions(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Labelled, Any]:
    """The folder, its source and the outcome of a prediction of three regions."""
    checkpoint = select_checkpoints([trained_run.root], "last", [])[0]
    data = replace(checkpoint.cfg.data, regions=REGIONS, ignore=(9,))
    checkpoint = replace(checkpoint, cfg=replace(checkpoint.cfg, data=data))
    source, out = Labelled(), tmp_path_factory.mktemp("predictions") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segtrain.evaluation.predictions.opened", by_hand(data))
        outcome = predict_source([checkpoint], source, out, probabilities=True, rule="score")
    return out, source, outcome


def masks(out: Path, patient: str, region: str) -> NDArray[np.bool_]:
    return np.stack([read(file) for file in sorted((out / "masks" / region / patient).iterdir())]) > 0


def test_masks_and_probabilities_are_in_a_folder_a_region(of_regions: tuple[Path, Labelled, Any]) -> None:
    out, source, _ = of_regions
    assert {path.name for path in (out / "masks").iterdir()} == set(REGIONS)
    assert {path.name for path in (out / "probabilities").iterdir()} == set(REGIONS)
    predicted = np.stack([masks(out, "Q", region) for region in REGIONS])
    assert predicted.any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(source.written["Q"], label_map(predicted, REGIONS))


@pytest.mark.law("L10")
def test_scores_have_a_row_for_each_patient_and_region(of_regions: tuple[Path, Labelled, Any]) -> None:
    out, _, outcome = of_regions
    rows = table(out / "scores.csv")
    assert [(row["patient"], row["region"]) for row in rows] == [
        (p, r) for p in ("P_ses-1", "P_ses-2") for r in REGIONS
    ]
    truth = nested(MASK)
    for number, row in enumerate(rows[:3]):
        predicted, true = masks(out, "P_ses-1", row["region"]) & (truth != IGNORED), (truth >> number & 1) > 0
        assert int(row["tp"]) == (predicted & true).sum()
        assert int(row["fp"]) == (predicted & ~true).sum()
        assert int(row["fn"]) == (true & ~predicted).sum()
    assert {outcome.people["P_ses-1"], outcome.people["P_ses-2"]} == {"P"}


def test_pictures_of_regions_have_their_colours(of_regions: tuple[Path, Labelled, Any]) -> None:
    out, _, _ = of_regions
    most = int((MASK > 0).sum((1, 2)).argmax()) + 1
    picture = read(out / "overlays/P_ses-1" / f"slice_{most:03d}.png")
    halves = np.split(picture, 2, axis=1)
    for colour in REGION_COLOURS[:3]:
        for half in halves:
            assert (half == colour).all(axis=2).any(), colour
    blank = read(out / "overlays/Q" / f"slice_{most:03d}.png")
    assert blank.shape[0] == blank.shape[1], "no truth, so the prediction alone"
    sheet = read(out / "sheets/P_ses-1.png")
    assert all((sheet[:18] == colour).all(axis=2).any() for colour in REGION_COLOURS[:3]), "the legend"
    assert read(out / "dsc.png").shape[2] == 3


def test_the_same_regions_are_drawn_alike_and_one_region_as_before() -> None:
    plane = np.random.default_rng(0).normal(0, 1e4, (64, 64))
    masks_rhw = np.zeros((2, 64, 64), bool)
    masks_rhw[0, 8:40, 8:40] = masks_rhw[1, 16:30, 16:30] = True
    left, right = np.split(drawn(plane, masks_rhw, masks_rhw), 2, axis=1)
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(drawn(plane, masks_rhw, None), left, "no empty pane where there is no truth")
    one = drawn(plane, masks_rhw[:1], masks_rhw[:1])
    assert one.shape[0] == one.shape[1]
    assert (one == YELLOW).all(axis=2).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_volumes_of_any_numbers_are_seen_in_pictures(dtype: type) -> None:
    plane: NDArray[Any] = np.linspace(0, 250, 64 * 64).reshape(64, 64).astype(dtype)
    nothing = np.zeros((1, 64, 64), bool)
    picture = drawn(plane, nothing, nothing)
    assert np.unique(picture).size > 200


def test_flair_is_shown_where_the_data_have_it() -> None:
    assert shown_contrast(("pre-contrast", "FLAIR", "post-contrast")) == 1
    assert shown_contrast(("t1n", "t1c", "t2w", "T2F")) == 3
    assert shown_contrast(("dwi", "adc")) == 0


@pytest.mark.law("L10")
def test_the_lines_of_the_chart_are_of_people() -> None:
    """0.2 and 0.8 of two people, and the mean 0.8 of another's three scans."""
    bars = [Bar("A", 0.2), Bar("C", 0.8), *(Bar(f"B_{n}", dsc) for n, dsc in enumerate((0.7, 0.8, 0.9)))]
    people = dict.fromkeys(("B_0", "B_1", "B_2"), "B")
    picture = chart(bars, "patients", people=people).astype(int)
    red = (np.abs(picture - (214, 40, 40)).sum(2) < 10).sum(0)
    axis = (picture == 0xDD).all(2).sum(0)
    start, end = np.flatnonzero(axis > 20)[[0, -1]]
    place = float(np.flatnonzero(red > red.max() / 2).mean() - start) / (end - start)
    assert place == pytest.approx(0.6, abs=0.005)


def test_bars_of_regions_are_below_each_other_in_their_colours() -> None:
    bars = [Bar("A", 0.2, region="whole"), Bar("A", 0.4, region="core")]
    picture = chart(bars, "patients")
    blue = tuple(int(BLUE[at : at + 2], 16) for at in (1, 3, 5))
    first, second = ((picture == colour).all(axis=2).any(axis=1).nonzero()[0] for colour in REGION_COLOURS[:2])
    assert first.max() < second.min()
    assert REGION_COLOURS[0] == blue, "one region has the colour that it had"


def test_the_command_tells_the_mean_with_its_parts(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On NIfTI volumes, whose masks come back on their own grid."""
    folder = tmp_path / "in"
    folder.mkdir()
    labels = np.choose(nested(NEW_MASK, ignored=False), [0, 2, 0, 1, 0, 0, 0, 3]).astype(np.uint8)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    for patient in ("P_T1", "P_T2"):
        for contrast, name in enumerate(("pre", "flair", "post")):
            volume = NEW_IMAGE[..., contrast].transpose(2, 1, 0)
            nibabel.save(nibabel.Nifti1Image(volume, affine), folder / f"{patient}_{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine), folder / f"{patient}_seg.nii.gz")
    select = select_checkpoints

    def selected(*arguments: Any) -> Any:
        (checkpoint,) = select(*arguments)
        data = replace(checkpoint.cfg.data, regions=REGIONS)
        return [replace(checkpoint, cfg=replace(checkpoint.cfg, data=data))]

    monkeypatch.setattr("segtrain.commands.predict.select_checkpoints", selected)
    data = DataConfig(regions=REGIONS)
    monkeypatch.setattr("segtrain.evaluation.predictions.opened", by_hand(data))
    out = tmp_path / "out"
    assert run_command(command, [str(trained_run.root), "--images", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert re.search(r"mean DSC over 3 regions \d\.\d{4}", said)
    for region in REGIONS:
        assert re.search(rf"{region}: mean DSC \d\.\d{{4}} \(n = 1,", said), "two scans, one person"
        (file,) = (out / "masks" / region).glob("P_T1_mask.nii.gz")
        assert voxels(file).shape == labels.T.shape
    found = voxels(next((out / "labels").glob("P_T1*")))
    assert {0} < set(np.unique(found)) <= {0, 1, 2, 3}
    whole = voxels(next((out / "masks" / "whole").glob("P_T1*")))
    assert not found[whole == 0].any(), "no label without whole"
    assert np.asarray(Image.open(out / "sheets/P_T1.png")).ndim == 3


def test_bits_come_back_from_regions() -> None:
    bits = np.arange(8, dtype=np.uint8)
    np.testing.assert_array_equal(bits_of(regions_of(bits, MaskLayout(("a", "b", "c")))), bits)
