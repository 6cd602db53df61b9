"""The report's atlas: pictures and numbers of one volume, the run's own scores, worst patients first."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from segtrain.commands.report import command
from segtrain.report import atlas as atlas_module
from segtrain.report.atlas import Atlas, atlases, shown
from segtrain.report.collect import Collected, collect
from segtrain.report.sprites import Sprites, difference, sprites
from segtrain.report.statistics import compare
from segtrain.report.variants import by_variant, scores
from segtrain.run import Run
from segtrain.runtime.process import run_command


@pytest.fixture(scope="module")
def made(trained_run: Run) -> Atlas:
    (atlas,) = atlases(collect([trained_run.root]))
    assert not atlas.reason
    return atlas


@pytest.fixture
def copied(trained_run: Run, tmp_path: Path) -> Run:
    shutil.copytree(trained_run.root, tmp_path / "copy")
    return Run(tmp_path / "copy")


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text


@cache
def decoded(url: str) -> NDArray[np.uint8]:
    head, _, code = url.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGBA"))


def layer(pictures: Sprites, name: str, place: int) -> NDArray[np.uint8]:
    """The tile of slice `place`, uint8 [h, w, 4]."""
    whole = decoded(pictures.layers[name])
    side = whole.shape[1] // pictures.columns
    assert whole.shape[:2] == (side * pictures.rows, side * pictures.columns)
    row, column = divmod(place, pictures.columns)
    return whole[row * side : (row + 1) * side, column * side : (column + 1) * side]


@pytest.mark.law("L10")
def test_the_scores_are_those_of_the_runs_table(made: Atlas, trained_run: Run) -> None:
    last = trained_run.result().epochs
    assert last is not None
    with trained_run.validation_table(last).open(newline="") as file:
        table = {row["patient"]: row for row in csv.DictReader(file)}
    assert {card.patient: card.row for card in made.cards} == table, "to the last digit"
    assert [card.dsc for card in made.cards] == sorted(float(row["dsc"]) for row in table.values())
    assert max(card.dsc for card in made.cards) > 0.05, "the run has learnt something, or this test says nothing"
    assert (made.differ, made.left_out, made.epoch) == ([], 0, last)


def test_the_hash_is_that_of_the_weights(made: Atlas, trained_run: Run) -> None:
    weights = trained_run.checkpoints / made.checkpoint / "model.safetensors"
    assert weights.parent == trained_run.checkpoint(trained_run.saved_step())
    assert load_file(weights)
    assert made.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_pictures_and_numbers_are_of_one_volume(made: Atlas) -> None:
    """Voxels counted by their colours in the pictures, slice by slice, are those of the numbers."""
    for card in made.cards:
        for place, one in enumerate(card.slices):
            red, green, blue, alpha = layer(card.pictures, "difference", place).reshape(-1, 4).astype(int).T
            area = len(alpha) / 32**2  # drawn pixels of a voxel
            painted = [(red == green) & (alpha == 60), (red > blue) & (alpha == 210), (blue > red) & (alpha > 60)]
            assert [mask.sum() / area for mask in painted] == [one.tp, one.fp, one.fn]
            assert layer(card.pictures, "truth", place)[..., 3].any() == bool(one.tp + one.fn)
            assert layer(card.pictures, "prediction", place)[..., 3].any() == bool(one.tp + one.fp)
        wrong = [one.fp + one.fn for one in card.slices]
        assert wrong[card.worst] == max(wrong) > 0
        assert [one.number for one in card.slices] == sorted(one.number for one in card.slices)


@pytest.mark.parametrize(("size", "tile"), [(96, 288), (256, 256), (600, 512)])
def test_tiles_lie_where_the_page_looks_for_them(size: int, tile: int) -> None:
    generator = np.random.default_rng(0)
    levels = np.linspace(0, 1, 7)
    flair = np.broadcast_to(levels[:, None, None], (7, size, size)).copy()
    true = np.zeros((7, size, size), bool)
    true[5, size // 4 : size // 2, size // 4 : size // 2] = True
    pictures = sprites({"flair": flair}, true[None], np.roll(true, 1, axis=0)[None])
    assert (pictures.columns, pictures.rows) == (3, 3)
    assert pictures.position(5) == ("100.0000%", "50.0000%")
    assert pictures.position(0) == ("0.0000%", "0.0000%")
    for place, level in enumerate(levels):
        grey = layer(pictures, "flair", place)[5:-5, 5:-5, 0]
        assert grey.mean() == pytest.approx(level * 255, abs=6)
    for name, place in (("prediction", 5), ("truth", 6)):
        tiles = [layer(pictures, name, k)[..., 3].any() for k in range(9)]
        assert tiles == [k == place for k in range(9)], name
        assert layer(pictures, name, place).shape[:2] == (tile, tile)
    mixed = generator.random((2, 9, 9)) > 0.5
    assert (difference(mixed, mixed)[..., 3] > 0).tolist() == mixed.tolist()


def test_one_slice_and_an_empty_volume_can_be_drawn() -> None:
    nothing = np.zeros((1, 32, 32), bool)
    pictures = sprites({"flair": np.zeros((1, 32, 32), np.float16)}, nothing[None], nothing[None])
    assert (pictures.columns, pictures.rows, pictures.position(0)) == (1, 1, ("0.0000%", "0.0000%"))
    assert not layer(pictures, "difference", 0)[..., 3].any()


def test_other_scores_than_those_of_the_table_are_said(copied: Run, tmp_path: Path) -> None:
    table = copied.validation_table(copied.result().epochs or 0)
    with table.open(newline="") as file:
        first = next(csv.DictReader(file))
    edit(table, lambda text: text.replace(f",{first['tp']},", f",{int(first['tp']) + 1},", 1))
    assert command([str(copied.root), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"have other scores here than in the run&#39;s table: {first['patient']}." in page
    assert "to the last digit" not in page


def without_checkpoint(run: Run) -> str:
    shutil.rmtree(run.checkpoint(run.saved_step()))
    return "no such checkpoint"


def without_data(run: Run) -> str:
    edit(
        run.root / "config.yaml", lambda text: text.replace("source: phantom\n  root: null", "source: lgg\n  root: /no")
    )
    return "/no"


def with_overlap(run: Run) -> str:
    sides = run.split()
    split = {"hash": "0", "train": [*sides["train"], sides["validation"][0]], "validation": sides["validation"]}
    (run.root / "split.json").write_text(json.dumps(split))
    return "on both sides"


def damaged(run: Run) -> str:
    with (run.checkpoint(run.saved_step()) / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    return "not what was written"


@pytest.mark.law("L12")
@pytest.mark.law("L1")
@pytest.mark.parametrize("spoil", [without_checkpoint, without_data, with_overlap, damaged])
def test_without_an_atlas_the_report_says_why(
    copied: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Run], str]
) -> None:
    why = spoil(copied)
    assert run_command(command, [str(copied.root), "--out", str(tmp_path / "out")]) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("no atlas of copy: ")]
    page = (tmp_path / "out" / "index.html").read_text()
    assert why in said
    assert "No atlas of copy: " in page
    assert 'class="card"' not in page
    assert "No atlas of copy: " in (tmp_path / "out" / "report.md").read_text()


def test_the_worst_stay_where_the_page_has_no_room(
    trained_run: Run, made: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas_module, "ATLAS_MB", (made.cards[0].pictures.size + 10) / 1e6)
    (atlas,) = atlases(collect([trained_run.root]))
    assert [card.patient for card in atlas.cards] == [made.cards[0].patient]
    assert atlas.left_out == len(made.cards) - 1 == 1


@pytest.mark.law("L12")
def test_no_atlas_is_said_where_not_even_one_patient_has_room(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas_module, "ATLAS_MB", 1e-6)
    assert command([str(trained_run.root), "--out", str(tmp_path / "out")]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert "no room for a patient in 1e-06 MB" in report
    assert "to the last digit" not in report


def test_links_lead_to_a_patients_place_also_beside_an_atlas_that_failed(trained_run: Run, tmp_path: Path) -> None:
    for name in ("base-seed1", "other-seed1"):
        shutil.copytree(trained_run.root, tmp_path / "runs" / name)
    without_checkpoint(Run(tmp_path / "runs" / "base-seed1"))
    assert command([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--baseline", "base"]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    links = re.findall(r'<td [^>]*><a href="#([^"]+)">([^<]+)</a>', page)
    assert {patient for _, patient in links} == set(trained_run.split()["validation"])
    for target, patient in links:
        card = page[page.index(f'id="{target}"') :]
        assert f'<span class="name">{patient}</span>' in card[: card.index("</h4>")]


def test_whose_atlas(trained_run: Run, tmp_path: Path) -> None:
    """The baseline's and that of the best beside it, of one fold and seed; or those named."""
    names = ("base-fold0-seed1", "base-fold0-seed2", "good-fold0-seed2", "poor-fold0-seed1")
    for name in names:
        shutil.copytree(trained_run.root, tmp_path / name)
    runs = [spoilt(run) if run.variant == "poor" else run for run in collect([tmp_path])]

    def names_of(which: list[Collected]) -> list[str]:
        _, groups = by_variant(which, "base")
        rows = compare({variant: scores(own) for variant, own in groups.items()}, "base")
        return [run.name for run in shown(which, groups, rows, [])]

    assert names_of(runs) == ["base-fold0-seed2", "good-fold0-seed2"]
    assert names_of(runs[:2]) == ["base-fold0-seed1"]
    unfinished = collect([tmp_path / names[0]])
    assert shown(unfinished, {}, [], []) == unfinished
    assert [run.name for run in shown(runs, {}, [], [tmp_path / names[3]] * 2)] == [names[3]]
    assert run_command(command, [str(tmp_path / names[0]), "--out", "o", "--atlas", str(tmp_path / names[1])]) == 2
    assert run_command(command, [str(tmp_path / names[0]), "--out", "o", "evaluate.threshold=0.4"]) == 2


def spoilt(run: Collected) -> Collected:
    assert run.last
    worse = dict.fromkeys(run.last.by_patient, 0.0)
    return replace(run, last=replace(run.last, by_patient=worse))


def test_without_an_atlas_no_torch_is_needed(trained_run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from segtrain.commands.report import command; "
        f"command([{str(trained_run.root)!r}, '--out', {str(tmp_path / 'out')!r}, '--no-atlas']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "atlas" not in (tmp_path / "out" / "report.md").read_text()
