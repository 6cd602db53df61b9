"""`segtrain predict --uncertainty`: its maps, table and pictures, from two runs, from views, and from one network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from predictions import NEW_IMAGE, pages, predict, read, table, write_patient
from region_stores import REGIONS
from test_predict_regions import Labelled
from torch import Tensor
from trainings import run_to_end

from segtrain.config import Config, DataConfig, EvaluateConfig, TrainConfig
from segtrain.evaluation.calibration import MARGIN_VOXELS, box_around
from segtrain.evaluation.ensemble import TrainedCheckpoint, ensemble
from segtrain.evaluation.predictions import predict_source
from segtrain.evaluation.predictor import Predictor
from segtrain.evaluation.uncertainty import MOST_SPREAD, entropy_bits
from segtrain.run import Run

NUMBERS = ("mean_entropy_bits", "mean_spread", "volume_cv")


@pytest.fixture(scope="module")
def other_run(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """On the same data, with another seed."""
    cfg = replace(tiny, name="other", seed=7, train=TrainConfig(epochs=1, global_batch=4))
    return Run(run_to_end(tmp_path_factory.mktemp("other"), cfg, 1))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_patient(folder, "P", NEW_IMAGE, None)
    return folder


@pytest.fixture(scope="module")
def of_two(trained_run: Run, other_run: Run, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "out"
    more = (str(other_run.root), "--uncertainty", "--probabilities", "evaluate.threshold=0.4")
    return predict(trained_run, images, out, *more)


def test_the_maps_are_those_of_the_members_probabilities(
    trained_run: Run, other_run: Run, images: Path, of_two: Path, tmp_path: Path
) -> None:
    """Each predicted alone, by the same command."""
    alone = [
        pages(predict(run, images, tmp_path / run.root.name, "--probabilities") / "probabilities" / "P.tif")
        for run in (trained_run, other_run)
    ]
    entropy, spread = (pages(of_two / "uncertainty" / name / "P.tif") for name in ("entropy", "spread"))
    assert entropy.dtype == spread.dtype == np.float32
    assert np.allclose(pages(of_two / "probabilities" / "P.tif"), np.mean(alone, axis=0), atol=1e-5)
    assert np.allclose(spread, np.std(alone, axis=0), atol=1e-5)
    assert np.array_equal(entropy, entropy_bits(pages(of_two / "probabilities" / "P.tif")))
    assert 0 < spread.max() <= MOST_SPREAD
    assert not entropy[[0, -1]].any(), "slices that preparation drops are not predicted"


def test_the_masks_are_those_without_uncertainty(trained_run: Run, other_run: Run, images: Path, of_two: Path) -> None:
    plain = predict(
        trained_run, images, of_two.parent / "plain", str(other_run.root), "--probabilities", "evaluate.threshold=0.4"
    )
    assert not (plain / "uncertainty").exists()
    for file in sorted((plain / "masks").rglob("*.tif")):
        assert file.read_bytes() == (of_two / file.relative_to(plain)).read_bytes()
    assert np.array_equal(pages(plain / "probabilities" / "P.tif"), pages(of_two / "probabilities" / "P.tif"))


def test_the_table_is_of_the_box_around_the_written_mask(of_two: Path) -> None:
    (row,) = table(of_two / "uncertainty.csv")
    assert (row["patient"], row["networks"], row["views"], row["trained_on"]) == ("P", "2", "1", "no")
    mask = np.stack([read(file) for file in sorted((of_two / "masks" / "P").iterdir(), key=_number)]) > 0
    assert mask.any(), "something is predicted, or this test says nothing"
    box = box_around([mask], MARGIN_VOXELS)
    for name, column in (("entropy", "mean_entropy_bits"), ("spread", "mean_spread")):
        values = pages(of_two / "uncertainty" / name / "P.tif")[box]
        assert float(row[column]) == pytest.approx(values.mean(dtype=np.float64), abs=2e-6)
    assert 0 < float(row["volume_cv"]) <= 1, "at most 1 for two members"
    assert read(of_two / "uncertainty" / "sheets" / "P.png").ndim == 3
    with ZipFile(of_two / "predictions.zip") as archive:
        files = {str(file.relative_to(of_two)) for file in of_two.rglob("*") if file.is_file()}
        assert sorted(archive.namelist()) == sorted(files - {"predictions.zip"})


def _number(path: Path) -> int:
    return int(path.stem.split("_")[1])


def test_one_network_has_entropy_alone_and_says_so(
    trained_run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = predict(trained_run, images, tmp_path / "out", "--uncertainty")
    assert "entropy alone, since one network in one view has no spread" in capsys.readouterr().err
    assert {path.name for path in (out / "uncertainty").iterdir()} == {"entropy", "sheets"}
    (row,) = table(out / "uncertainty.csv")
    assert (row["mean_spread"], row["volume_cv"]) == ("", "")
    assert 0 <= float(row["mean_entropy_bits"]) <= 1


def test_views_of_one_network_are_members(trained_run: Run, images: Path, tmp_path: Path) -> None:
    out = predict(trained_run, images, tmp_path / "out", "--uncertainty", "evaluate.tta=left_right")
    (row,) = table(out / "uncertainty.csv")
    assert (row["networks"], row["views"]) == ("1", "2")
    assert pages(out / "uncertainty" / "spread" / "P.tif").max() > 0


def test_regions_have_folders_and_rows_of_their_own(tmp_path: Path) -> None:
    """Two networks made by hand that contradict each other in the last region alone."""
    cfg = Config(data=DataConfig(image_size=32, regions=REGIONS, ignore=(9,)))
    data, nobody = cfg.data, frozenset[str]()
    checkpoint = TrainedCheckpoint(Run(tmp_path / "run"), cfg, tmp_path / "run", nobody, nobody)
    members = (_sure_of((9.0, 9.0, 0.0)), _sure_of((9.0, 9.0, 200.0)))

    @contextmanager
    def opened(checkpoints: Sequence[object]) -> Iterator[Predictor]:
        device = torch.device("cpu")
        yield Predictor(ensemble(members), EvaluateConfig(), device, layout=data.layout, members=members)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segtrain.evaluation.predictions.opened", opened)
        predict_source([checkpoint], Labelled(), tmp_path / "out", False, "score", uncertainty=True)
    rows = table(tmp_path / "out" / "uncertainty.csv")
    assert [(row["patient"], row["region"]) for row in rows] == [
        (patient, region) for patient in ("P_ses-1", "P_ses-2", "Q") for region in REGIONS
    ]
    spreads: dict[str, Any] = {
        region: pages(tmp_path / "out" / "uncertainty" / "spread" / region / "Q.tif").max() for region in REGIONS
    }
    assert [spreads[region] for region in REGIONS] == [0, 0, pytest.approx(0.25)]
    assert (tmp_path / "out" / "uncertainty" / "sheets" / next(iter(REGIONS)) / "Q.png").exists()


def _sure_of(logits: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    return lambda image: torch.tensor(logits)[None, :, None, None].expand(len(image), -1, *image.shape[2:])
