"""The comparison with other programs: its clocks, its table, and a run of what can be had without a network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.peers import rows
from benchmarks.peers.environments import Place, UnavailableError, reference_program
from benchmarks.peers.figures import figures
from benchmarks.peers.patches import PATCHES
from benchmarks.peers.watch import Moment, Watched, watch
from benchmarks.peers.work import Work
from segtrain.data.sources.phantom import phantom_patient

ROOT = Path(__file__).resolve().parent.parent
WORK = Work("raw", ["a", "b"], ["c"], 10, 32, batch=4, epochs=2, features=4, steps=3)


def watched(*phases: tuple[str, float], **facts: Any) -> Watched:
    """A command of 100 s from second 1000 on, which has one CPU for the first half and two for the second."""
    marks = [{"phase": phase, "at": 1000 + at, "images": 24, "dsc": 0.5, **facts} for phase, at in phases]
    moments = [Moment(1000, 0), Moment(1050, 50), Moment(1100, 150)]
    return Watched(1000, 0, 1100, cpu_s=150, peak_gib=1.0, marks=marks, moments=moments)


def test_the_loop_is_timed_without_its_first_step_and_without_evaluations() -> None:
    marks = [("prepared", 10.0), ("resumed", 15.0), ("first_step", 20.0), ("trained", 30.0), ("evaluated", 40.0)]
    later = [("resumed", 50.0), ("trained", 60.0), ("scoring", 70.0), ("evaluated", 80.0)]
    one = figures(WORK, {"train": watched(*marks, *later)})
    assert one["prepare"] == {"wall": 10, "cpu": 10}
    assert one["start"] == {"wall": 20, "cpu": 20}
    assert one["rate"] == {"wall": 20 / (10 + 10), "cpu": 20 / (10 + 20)}, "24 images but the first step's 4"
    assert one["evaluate"] == {"wall": (10 + 10) / 2, "cpu": (10 + 20) / 2}, "a patient, twice"
    assert one["whole"] == {"wall": 100, "cpu": 150}


def test_commands_that_prepare_and_train_add_up_unless_one_does_it_all() -> None:
    train = watched(("first_step", 20.0), ("trained", 30.0), ("evaluated", 40.0))
    prepare = Watched(0, 0, 7, cpu_s=5, peak_gib=3.0)
    two = figures(WORK, {"prepare": prepare, "train": train})
    assert (two["prepare"], two["whole"]["wall"]) == ({"wall": 7, "cpu": 5}, 107)
    assert two["memory"] == {"gib": 3.0}
    whole = Watched(0, 0, 50, cpu_s=60)
    assert figures(WORK, {"prepare": prepare, "train": train, "whole": whole})["whole"] == {"wall": 50, "cpu": 60}


def results(judged_by: str, **seconds: list[tuple[float, float]]) -> dict[str, Any]:
    """Results whose figures are all the same: seconds by the clock and of the CPU in each round."""

    def of(wall: float, cpu: float) -> dict[str, Any]:
        figure = {"wall": wall, "cpu": cpu}
        pairs = dict.fromkeys(("prepare", "start", "evaluate", "whole"), figure)
        rate = {"wall": 1 / wall, "cpu": 1 / cpu}
        return {**pairs, "rate": rate, "memory": {"gib": wall}, "dsc": 0.5, "images": 24, "gflop": 1.0, "versions": {}}

    peers = {
        name: {"note": "", "failed": "", "rounds": [of(*each) for each in rounds]} for name, rounds in seconds.items()
    }
    work = {"train": ["a"], "validation": ["b"], "size_px": 32, "features": 4, "batch": 4, "epochs": 2, "steps": 3}
    machine = {"cores": 2, "cpu": "a CPU", "vector_units": "avx2", "python": "3.11"}
    return {"judged_by": judged_by, "peers": peers, "work": work, "machine": machine, "data": "made up"}


def test_segtrain_is_ahead_where_its_best_round_beats_the_best_of_each_other() -> None:
    rounds = {"segtrain": [(3.0, 1.0), (9.0, 9.0)], "reference": [(4.0, 4.0)], "monai": [(2.0, 2.0), (5.0, 5.0)]}
    by_cpu, by_clock = results("cpu", **rounds), results("wall", **rounds)
    for row in rows.ROWS:
        assert rows.ahead(by_clock, row) is False, row.key
        assert rows.ahead(by_cpu, row) is (row.key != "memory"), row.key
    assert rows.ahead(results("wall", segtrain=[(1, 1)], monai=[]), rows.ROWS[0]) is None, "there is nothing to beat"
    assert rows.ahead(results("wall", **rounds | {"segtrain": [(1, 1)]}), rows.ROWS[0]) is True


def test_a_row_in_which_segtrain_is_behind_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = results("wall", segtrain=[(3, 3)], monai=[(2, 2)], nnunet=[])
    behind["peers"]["nnunet"]["failed"] = "not run: no torchvision"
    monkeypatch.setattr(rows, "WHY", {"start": "it starts two threads"})
    lines = rows.markdown(behind).splitlines()
    start = next(line for line in lines if line.startswith("| start"))
    assert start.endswith("| not run | no | it starts two threads |")
    assert "- nnU-Net: not run: no torchvision." in lines
    assert "it starts" not in rows.markdown(results("wall", segtrain=[(1, 1)], monai=[(2, 2)]))


def test_what_a_command_starts_counts_too(tmp_path: Path) -> None:
    burn = "import time; x = bytearray(200 << 20)\nwhile time.process_time() < 1.5: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); sys.exit('no such patient')"
    seen = watch([sys.executable, "-c", code], {}, tmp_path, "train")
    assert 1.4 < seen.cpu_s < 5
    assert 1.0 < seen.moment(seen.ended).cpu_s < 5
    assert 0.2 < seen.peak_gib < 1
    assert seen.error == "no such patient"
    assert watch([sys.executable, "-c", "pass"], {}, tmp_path, "train").error is None
    late = watch([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '77'])"], {}, tmp_path, "train", 1)
    assert late.error == "stopped after 1 s"
    assert late.wall_s < 60


def test_the_reference_is_patched_or_the_patch_that_has_no_place_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("train.py", "dataset.py", "loss.py", "transform.py", "unet.py", "utils.py"):
        (source / name).write_text("\n".join(patch.old for patch in PATCHES if patch.file == name))
    program = reference_program(Place(tmp_path, install=False), source, validation=3)
    assert "validation_cases=3" in (program / "dataset.py").read_text()
    assert "channel_axis=-1" in (program / "transform.py").read_text()
    (source / "utils.py").write_text("")
    with pytest.raises(UnavailableError, match=r"utils\.py has no .*lcc"):
        reference_program(Place(tmp_path, install=False), source, validation=3)


def raw_patients(folder: Path) -> Path:
    for index in range(3):
        patient = folder / f"TCGA_XX_{index:04d}_20000101"
        patient.mkdir(parents=True)
        image, mask = phantom_patient(0, index, 64)
        middle = np.argsort(mask.sum(axis=(1, 2)))[-1]
        for k in range(1, 15):
            plane = min(max(0, int(middle) + k - 7), len(mask) - 1)
            Image.fromarray(image[plane]).save(patient / f"{patient.name}_{k}.tif")
            Image.fromarray(mask[plane] * 255).save(patient / f"{patient.name}_{k}_mask.tif")
    return folder


def test_a_comparison_runs_what_is_there_and_says_what_is_not(tmp_path: Path) -> None:
    raw, file = raw_patients(tmp_path / "raw"), tmp_path / "peers.json"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.peers",
            "--tiny",
            "--no-install",
            "--busy",
            "--rounds",
            "1",
            "--lgg",
            raw,
            "--folder",
            tmp_path / "bench",
            "--json",
            file,
            "--only",
            "segtrain",
            "reference",
            "monai",
            "nnunet",
        ],
        check=True,
        cwd=ROOT,
        capture_output=True,
        timeout=600,
    )
    outcome = json.loads(file.read_text())
    for name in ("monai", "nnunet"):
        assert outcome["peers"][name]["rounds"] == []
        assert outcome["peers"][name]["failed"] == (
            "not run: there is no environment of its own, and --no-install was given"
        )
    assert outcome["peers"]["reference"]["note"].startswith("benchmarks/reference.py in place of its train.py")
    (ours,), (theirs,) = (outcome["peers"][name]["rounds"] for name in ("segtrain", "reference"))
    assert ours["images"] == theirs["images"] == outcome["work"]["steps"] * 8 > 0
    assert ours["gflop"] == theirs["gflop"] > 0
    for row in rows.ROWS:
        assert min(*ours[row.key].values(), *theirs[row.key].values()) > 0, row.key
    assert all(line[3:5] == ["not run", "not run"] for line in rows.table(outcome)[1:7])
