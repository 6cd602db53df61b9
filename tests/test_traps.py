"""Ten traps that give wrong training or scores without an error: each is seen where it is, and nowhere else."""

import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_sources import MadeSource, head, labelled, store_of

from segtrain.config import LGG_CONTRASTS, DataConfig, MaskLayout, ProtocolName
from segtrain.data import traps
from segtrain.data.geometry import Geometry
from segtrain.data.measured import Measured, measure
from segtrain.data.people import people_of
from segtrain.data.preprocess import Preparation, preprocess
from segtrain.data.sources import LabelRules, LggSource, PhantomSource, Source
from segtrain.data.sources.base import LISTED, read_with_mask
from segtrain.data.store_index import StoredPatient
from segtrain.data.tissues import DataSet, channel_order, tissues
from segtrain.data.traps import (
    judge,
    large_lesions,
    lesions_off_the_head,
    same_heads,
    scaling,
    scans_of_one_person,
    spacings,
    turned_heads,
    unlabelled_slices,
)
from segtrain.errors import DataError

CONTRASTS = ("t1", "t1ce", "t2", "flair")
BRATS = LabelRules({"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)})
GEOMETRY = Geometry((6, 16, 16), ((0, 6), (0, 16), (0, 16)), ((0, 0), (0, 0)), 16)
AREAS = (0, 9, 12, 5, 0, 0)
#               necrosis          edema             enhancing    of t1, t1ce, t2, flair
Z = {1: (-0.8, -0.4, 1.0, 0.3), 2: (-0.2, -0.1, 1.2, 1.8), 3: (-0.4, 1.6, 0.8, 0.9)}


def thumbnail(seed: int) -> np.ndarray:
    """A head, dark in front and below, with noise of its own."""
    z, y, _ = np.mgrid[:16, :16, :16] / 16
    values = z + 2 * y + np.random.default_rng(seed).normal(0, 0.2, (16, 16, 16))
    values -= values.mean()
    return np.asarray(values / np.sqrt((values**2).sum()), np.float32)


def patient(name: str = "P", areas: tuple[int, ...] = AREAS, **options: object) -> StoredPatient:
    numbers = tuple(range(1, len(areas) + 1))
    entry = StoredPatient(name, "unknown", areas, numbers, GEOMETRY, ())
    return replace(entry, **options)  # type: ignore[arg-type]


def data_of(
    figures: list[Measured] | None = None,
    entries: list[StoredPatient] | None = None,
    rules: LabelRules = BRATS,
) -> DataSet:
    """Patients with these figures; where only the one is given, as many of the other without anything odd."""
    figures = figures or [Measured(thumbnail(seed)) for seed in range(len(entries or ()))]
    entries = entries or [patient(f"P{number}", areas=(*AREAS, number)) for number in range(len(figures))]
    people = people_of([entry.patient for entry in entries], None)
    return DataSet(list(zip(entries, figures, strict=True)), CONTRASTS, rules, people)


def alike(number: int = 5, **figures: object) -> list[Measured]:
    """Patients with one figure."""
    return [replace(Measured(thumbnail(seed)), **figures) for seed in range(number)]  # type: ignore[arg-type]


def ids(*names: str) -> DataSet:
    return data_of(entries=[patient(name) for name in names])


def tumours(rules: LabelRules, z_of_labels: Mapping[int, tuple[float, ...]]) -> DataSet:
    """Patients whose labels have these intensities."""
    figures = alike(z_of_bits={rules.bits_of(label): z for label, z in z_of_labels.items()})
    voxels = dict.fromkeys((0, *z_of_labels), 100)
    return data_of(figures, [patient(f"P{number}", label_voxels=voxels) for number in range(5)], rules)


def test_labels_with_the_intensities_of_another_tissue_are_told() -> None:
    """`core: [1, 3]` of BraTS 2023 on MSD, where 1 is edema and 2 is not enhancing."""
    assert not list(tissues(tumours(BRATS, Z)))
    (message,) = tissues(tumours(BRATS, {1: Z[2], 2: Z[1], 3: Z[3]}))
    assert message.startswith("label 1 in region core has the highest z(FLAIR), 1.80 against 0.90, as edema has")
    (message,) = tissues(tumours(BRATS, {1: Z[1], 2: Z[3], 3: (-0.4, -0.3, 0.8, 0.9)}))
    assert message.startswith("label 2 has the highest z(t1ce) - z(t1), 2.00, but is not in region enhancing, whose")
    assert not list(tissues(tumours(LabelRules({"lesion": (1, 2, 3)}), {1: Z[1]})))


def test_a_cavity_taken_for_enhancing_tumour_is_told() -> None:
    """Label 4 is enhancing tumour until BraTS 2021, and the resection cavity in GLI 2024."""
    rules = LabelRules({"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (4,)})
    cavity = (-1.5, -1.4, 2.0, -0.5)
    messages = list(tissues(tumours(rules, {**Z, 4: cavity})))
    assert any(message.startswith("label 4 in region enhancing takes up little contrast") for message in messages)
    assert not list(tissues(tumours(rules, {1: Z[1], 2: Z[2], 4: Z[3]})))


def test_ids_that_may_be_scans_of_one_person_are_told() -> None:
    (message,) = scans_of_one_person(ids("OAS1_0001_1", "OAS1_0001_2", "OAS1_0002_1", "OAS1_0003_1"))
    assert message.startswith("2 patient ids differ from others in a last number alone (OAS1_0001_1, OAS1_0001_2)")
    for names in (
        ["TCGA_CS_4941_19960909", "TCGA_CS_4942_19970222", "TCGA_DU_5849_19950405"],
        ["BRATS_001", "BRATS_002", "BRATS_003"],
        ["BraTS20_Training_001", "BraTS20_Training_002"],
        ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"],  # grouped by their pattern
        [f"site{site}_{number:03d}" for site in (1, 2) for number in range(20)],
    ):
        assert not list(scans_of_one_person(ids(*names)))


def test_one_head_under_two_ids_is_told() -> None:
    rng = np.random.default_rng(0)
    figures = [Measured(thumbnail(seed)) for seed in (1, 2, 3)]
    nearly = figures[0].thumbnail + rng.normal(0, 5e-4, (16, 16, 16)).astype(np.float32)
    (message,) = same_heads(data_of([*figures, Measured(nearly / np.sqrt((nearly**2).sum()))]))
    assert message.startswith("1 pairs of patients look like one head (correlation above 0.99): P0 and P3;")
    assert not list(same_heads(data_of(figures)))
    of_one = [patient("UPENN-GBM-00001_11"), patient("UPENN-GBM-00001_21")]
    assert not list(same_heads(data_of([figures[0], figures[0]], of_one))), "known to be one person"


def test_heads_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs within a block and across blocks, and of how many patients the memory is of a block alone."""
    figures = [Measured(thumbnail(seed % 5)) for seed in range(11)]
    whole = list(same_heads(data_of(figures)))
    assert whole[0].startswith(
        "7 pairs of patients look like one head (correlation above 0.99): P0 and P5, P0 and P10, "
    )
    assert whole[0].count(" and P") == LISTED, "of the pairs"
    assert " and 1 more; if they are" in whole[0]
    monkeypatch.setattr(traps, "AT_ONCE", 3)
    (blocks,) = same_heads(data_of(figures))
    assert blocks.partition("):")[0] == whole[0].partition("):")[0]
    monkeypatch.setattr(traps, "AT_ONCE", 100)
    rows = np.random.default_rng(0).normal(0, 0.01, (5000, 4)).astype(np.float32)
    tracemalloc.start()
    for pairs in traps._alike(rows, [str(row) for row in range(5000)]):
        assert not len(pairs)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 5000**2, "not a number for each pair"


def test_brats_cases_that_are_lgg_patients_are_told() -> None:
    (message,) = same_heads(ids("BraTS2021_01476", "BraTS-GLI-01776-000", "BraTS2021_00001"))
    assert message.startswith("2 BraTS cases are TCGA-LGG patients")
    (message,) = same_heads(ids("BraTS-GLI-01776-001", "BraTS-GLI-00001-001"))
    assert message.startswith("1 BraTS cases are TCGA-LGG patients"), "a later exam too"
    assert not list(same_heads(ids("BraTS2021_01475", "BraTS20_Training_001")))


def test_masks_that_are_no_lesions_are_told_or_refused() -> None:
    assert not list(large_lesions(data_of(alike(lesion_share=0.09))))
    (message,) = large_lesions(data_of(alike(lesion_share=0.2)))
    assert message.startswith("lesion is 20% of the head in the median of 5 patients")
    (message,) = large_lesions(data_of([*alike(lesion_share=0.02), *alike(1, lesion_share=0.8)]))
    assert message.startswith("lesion is more than 50% of the head in P5;")
    with pytest.raises(DataError, match=r"lesion is 98% of the head in the median of 5 patients; check that masks"):
        list(large_lesions(data_of(alike(lesion_share=0.98))))


def test_truth_that_lies_where_nothing_is_is_told() -> None:
    (message,) = lesions_off_the_head(data_of([*alike(3), *alike(1, blank_share=0.3)]))
    assert message.startswith("in 1 patients more than 1% of the lesion lies where all contrasts are 0 (30% in P3)")
    assert not list(lesions_off_the_head(data_of(alike(blank_share=0.005))))


def test_contrasts_in_another_order_are_told() -> None:
    (message,) = channel_order(data_of(alike(dark_fluid=0.1)))
    assert "is dark on FLAIR in 10% of its voxels alone (median of 5 patients); check the order" in message
    assert not list(channel_order(data_of(alike(dark_fluid=0.9))))
    assert not list(channel_order(data_of(alike())))


def test_slices_that_nobody_labelled_are_told() -> None:
    three = [patient(f"P{number}", areas=(0, 4, 6 + number, 5, 0, 0)) for number in range(4)]
    (message,) = unlabelled_slices(data_of(entries=three))
    assert message.startswith("every patient has truth on exactly 3 slices (50% of all)")
    fifth = [patient(f"P{n}", areas=tuple(int(s % 5 == 0 and s >= 5 * n) for s in range(60))) for n in range(4)]
    (message,) = unlabelled_slices(data_of(entries=fifth))
    assert message.startswith("between a patient's first and last slice with truth 22% have some")
    usual = [patient(f"P{number}", areas=(0, *[5] * (number + 2), 0)) for number in range(4)]
    assert not list(unlabelled_slices(data_of(entries=usual)))
    named = [replace(entry, patient=f"{entry.patient}_study2") for entry in usual]
    (message,) = unlabelled_slices(data_of(entries=named))
    assert message.startswith("ids like P0_study2, P1_study2 are of sets whose masks may show changes")


def test_ranges_that_lone_voxels_set_are_told() -> None:
    (message,) = scaling(data_of(alike(brightest={"t1ce": 0.2, "flair": 0.9})))
    assert message.startswith("t1ce: 99.9% of the voxels are below 20% of the maximum in 5 patients")
    (message,) = scaling(data_of(alike(darkest={"t2": -290.0})))
    assert message == "t2: background is 0, but not the darkest value (-290) in 5 patients"
    (message,) = scaling(data_of(alike(stretched=1.0)))
    assert message.startswith("every slice's maximum is 255 in 5 of 5 patients")
    assert not list(scaling(data_of(alike(stretched=0.5, brightest={"t1ce": 0.7}))))


@pytest.mark.parametrize("turned", [[4], [0], [0, 1], [1, 3, 4, 5]])
@pytest.mark.parametrize(("axis", "what"), [(0, "slices"), (1, "rows")])
def test_heads_that_are_turned_against_the_others_are_told(turned: list[int], axis: int, what: str) -> None:
    """The fewer ones, whether the first patient is among them or not."""
    figures = [Measured(np.flip(thumbnail(seed), axis) if seed in turned else thumbnail(seed)) for seed in range(6)]
    assert not list(turned_heads(data_of([Measured(thumbnail(seed)) for seed in range(6)])))
    fewer = turned if len(turned) <= 3 else sorted(set(range(6)) - set(turned))
    (message,) = turned_heads(data_of(figures))
    assert message.startswith(f"{len(fewer)} of 6 patients fit the others better with the order of {what} reversed")
    assert f"({', '.join(f'P{number}' for number in fewer)})" in message


@pytest.mark.law("L12")
def test_spacings_a_hundredfold_apart_are_refused_and_oblong_pixels_told() -> None:
    usual = [patient(f"P{number}", spacing_mm=(5.0, 0.9, 0.9)) for number in range(3)]
    assert not list(spacings(data_of(entries=usual)))
    with pytest.raises(DataError, match=r"slices of P9 are 0.005 mm apart, and of P2 5 mm; correct the header"):
        list(spacings(data_of(entries=[*usual, patient("P9", spacing_mm=(0.005, 0.9, 0.9))])))
    sagittal = data_of(entries=[*usual, patient("P9", spacing_mm=(0.47, 0.8, 0.47))])
    (message,) = spacings(sagittal)
    assert message.startswith("pixels are oblong in 1 patients (rows x columns: 0.8 x 0.47 mm), but are taken for")
    assert not list(spacings(replace(sagittal, is_resampled=True)))


def measured(image_shwc: np.ndarray, labels_shw: np.ndarray, rules: LabelRules = BRATS) -> Measured:
    volume = labelled(labels_shw, rules, image_shwc)
    prepared = preprocess(volume, Preparation(32, "zscore"), "here")
    return measure(volume, prepared, CONTRASTS, rules.layout)


def test_the_figures_are_those_of_the_volume() -> None:
    """Each against plain numpy or by construction."""
    image = head(0, contrasts=4).astype(np.int16)
    labels = np.zeros((6, 32, 32), np.uint8)
    labels[2:4, 8:12, 8:12], labels[2:4, 12:16, 8:12], labels[2:4, 16:20, 8:12] = 1, 2, 3
    image[labels == 3, 1] += 2000
    image[labels == 2, 3] += 2000
    fluid = np.zeros(labels.shape, bool)
    fluid[1:5, 21:26, 20:25] = True
    image[fluid, 2], image[fluid, 3] = 3000, 310
    image[1, 21, 21, 0] = 30_000
    figures = measured(image, labels)
    uptake = {bits: z[1] - z[0] for bits, z in figures.z_of_bits.items()}
    assert max(uptake, key=lambda bits: uptake[bits]) == BRATS.bits_of(3)
    flair = {bits: z[3] for bits, z in figures.z_of_bits.items()}
    assert max(flair, key=lambda bits: flair[bits]) == BRATS.bits_of(2)
    assert figures.lesion_share == pytest.approx(96 / (6 * 24 * 24), rel=0.3)  # on 16 slices
    assert figures.blank_share == 0
    assert figures.brightest["t1"] < 0.1 < 0.9 < figures.brightest["flair"]
    assert figures.dark_fluid is not None
    assert figures.dark_fluid > 0.9
    swapped = measured(image[..., [0, 1, 3, 2]], labels)
    assert swapped.dark_fluid is not None
    assert swapped.dark_fluid < 0.7
    image[1, 10, 10] = -290
    assert measured(image, labels).darkest == dict.fromkeys(CONTRASTS, -290.0)
    image[labels > 0] = 0
    assert measured(image, labels).blank_share == 1


def test_warnings_come_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were when it was built, each time that it is opened."""
    rules, labels = LabelRules({"lesion": (1,)}), np.zeros((6, 32, 32), np.uint8)
    labels[2:4, 8:20, 8:20] = 1
    volumes = {name: labelled(labels, rules, head(seed)) for seed, name in enumerate(("A_01_1", "A_01_2", "A_02_1"))}
    for _ in range(2):
        store = store_of(MadeSource(volumes, rules), tmp_path, monkeypatch)
        assert any("differ from others in a last number alone" in warning for warning in store.warnings)
        assert any("every patient has truth on exactly 2 slices" in warning for warning in store.warnings)


@pytest.fixture(params=["phantom", "lgg"])
def usual(request: pytest.FixtureRequest) -> Callable[[], Source]:
    """Sources that are as they should be."""
    if request.param == "phantom":
        return lambda: PhantomSource(replace(DataConfig().phantom, patients=6, size_px=64))
    root: Path = request.getfixturevalue("lgg_root")
    return lambda: LggSource(root)


@pytest.mark.parametrize("protocol", ["reference", "zscore"])
def test_nothing_is_wrong_with_real_patients_and_phantoms(usual: Callable[[], Source], protocol: ProtocolName) -> None:
    source = usual()
    pairs = []
    for name in source.patients():
        volume, _ = read_with_mask(source, name)
        prepared = preprocess(volume, Preparation(64, protocol), name)
        areas = tuple(prepared.mask_shw.sum(axis=(1, 2), dtype=int).tolist())
        figures = measure(volume, prepared, source.contrasts, MaskLayout())
        pairs.append((patient(name, areas=areas, label_voxels=volume.label_voxels), figures))
    people = people_of([entry.patient for entry, _ in pairs], None)
    assert judge(DataSet(pairs, LGG_CONTRASTS, source.rules, people)) == []
