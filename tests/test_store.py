"""L11: prepared once, whole or not at all."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from predictions import IMAGE, MASK, write_patient
from trainings import gone

from segtrain.config import DataConfig, PhantomConfig
from segtrain.data import prepare as preparing
from segtrain.data.prepare import ensure_store, summary
from segtrain.data.sources import PhantomSource
from segtrain.data.store import open_store
from segtrain.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
SMALL = DataConfig(image_size=32, workers=1, phantom=PhantomConfig(patients=3, size_px=64))


def arguments(cfg: DataConfig) -> list[str]:
    phantom = f"data.phantom={{patients: {cfg.phantom.patients}, size_px: {cfg.phantom.size_px}}}"
    return [f"data.store={cfg.store}", f"data.image_size={cfg.image_size}", phantom]


def prepare(cfg: DataConfig, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "segtrain", "prepare", *arguments(cfg), *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(store: Path) -> dict[str, bytes]:
    return {str(f.relative_to(store)): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file()}


def leftovers(parent: Path) -> list[str]:
    return [p.name for p in parent.iterdir() if not p.name.endswith(".lock")]


@pytest.mark.quick
@pytest.mark.law("L11")
def test_of_many_that_ask_at_once_one_builds(tmp_path: Path) -> None:
    cfg = replace(SMALL, store=str(tmp_path))
    asking = [prepare(cfg) for _ in range(4)]
    outputs = [process.communicate(timeout=100) for process in asking]
    assert [process.returncode for process in asking] == [0] * 4, outputs
    assert sum("preparing" in err for _, err in outputs) == 1
    assert len(leftovers(tmp_path)) == 1
    assert all("patients" in out for out, _ in outputs)


class Sent(PhantomSource):
    """A source that counts how often it is sent to another process."""

    times = 0

    def __reduce__(self) -> tuple[Any, ...]:
        Sent.times += 1
        return PhantomSource, (self.config,)


def test_a_source_is_sent_to_each_worker_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows the files of all patients, which takes seconds to send where there are many."""
    monkeypatch.setattr(preparing, "make_source", lambda cfg: Sent(cfg.phantom))
    phantom = PhantomConfig(patients=5, size_px=64)
    assert len(ensure_store(replace(SMALL, store=str(tmp_path), workers=2, phantom=phantom)).patients) == 5
    assert Sent.times == 2


def being_built(folder: Path) -> int:
    """Files of stores that are not ready; os.walk, unlike glob, forgives that a folder is removed meanwhile."""
    return sum(name.endswith(".npy") for at, _, names in os.walk(folder) if ".building" in at for name in names)


@pytest.mark.law("L11")
def test_a_killed_builder_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """Killed at many moments, its workers with it; the next one builds what an undisturbed one builds."""
    expected = contents(ensure_store(replace(SMALL, store=str(tmp_path / "undisturbed"))).path)
    cfg = replace(SMALL, store=str(tmp_path / "disturbed"))
    killed = 0
    for files in (0, 1, 3, 5, 6):  # written when the builder is killed
        process = prepare(cfg, "data.workers=2")
        while being_built(Path(cfg.store)) < files and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        for store in Path(cfg.store).glob("phantom-*"):
            assert contents(store) == expected
            subprocess.run(["rm", "-r", store], check=True)
    assert killed >= 3, "builders were done before they could be killed"
    assert contents(ensure_store(cfg).path) == expected
    assert len(leftovers(Path(cfg.store))) == 1


@pytest.mark.law("L11")
def test_a_killed_builder_leaves_no_worker_behind(tmp_path: Path) -> None:
    cfg = replace(SMALL, store=str(tmp_path), phantom=PhantomConfig(patients=40, size_px=128))
    process = prepare(cfg, "data.workers=2")
    workers: list[int] = []
    while len(workers) < 3 and process.poll() is None:  # two workers and the resource tracker
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(child) for child in children]
        time.sleep(0.02)
    assert len(workers) >= 3
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while not all(map(gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, workers))


CHANGES: dict[str, Callable[[DataConfig], DataConfig]] = {
    "image size": lambda cfg: replace(cfg, image_size=48),
    "source": lambda cfg: replace(cfg, phantom=replace(cfg.phantom, seed=1)),
    "patients": lambda cfg: replace(cfg, phantom=replace(cfg.phantom, patients=4)),
}


@pytest.mark.law("L11")
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_source_or_setting_is_noticed(tmp_path: Path, change: str) -> None:
    cfg = replace(SMALL, store=str(tmp_path))
    first = ensure_store(cfg)
    before = contents(first.path)
    second = ensure_store(CHANGES[change](cfg))
    assert second.path != first.path
    assert contents(second.path) != before
    assert contents(first.path) == before, "a store is never changed"
    assert ensure_store(cfg).path == first.path


@pytest.mark.law("L11")
@pytest.mark.parametrize("version", ["store.VERSIONS", "store.FORMAT", "sources.phantom.PHANTOM_VERSION"])
def test_a_raised_version_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    cfg = replace(SMALL, store=str(tmp_path))
    first = ensure_store(cfg)
    raised = {"reference": 1000} if version == "store.VERSIONS" else 1000
    monkeypatch.setattr(f"segtrain.data.{version}", raised)
    assert ensure_store(cfg).path != first.path


@pytest.mark.law("L11")
def test_a_change_of_our_source_text_alone_is_not_noticed(tmp_path: Path) -> None:
    """A copy of the package with a comment more in every file finds the store that is there."""
    for file in (ROOT / "segtrain").rglob("*.py"):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text() + "\n# Another comment.\n")
    root = tmp_path / "patients"
    write_patient(root, "P", IMAGE, MASK)
    code = (
        "from segtrain.config import DataConfig; "
        "from segtrain.data.sources.open import make_source; from segtrain.data.store import store_path; "
        f"sources = [DataConfig(), DataConfig(source='lgg', root={str(root)!r})]; "
        "print([str(store_path(cfg, make_source(cfg).fingerprint())) for cfg in sources])"
    )
    paths = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for folder in (ROOT, tmp_path)
    ]
    assert paths[0] == paths[1] != ""


@pytest.mark.law("L11")
def test_a_changed_file_is_noticed(lgg_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "kaggle_3m"
    subprocess.run(["cp", "-r", lgg_root, root], check=True)
    for extra in sorted(root.iterdir())[2:]:
        subprocess.run(["rm", "-r", extra], check=True)
    cfg = DataConfig(source="lgg", root=str(root), store=str(tmp_path / "prepared"), image_size=32, workers=1)
    first = ensure_store(cfg)
    assert ensure_store(cfg).path == first.path
    file = next(root.rglob("*_5.tif"))
    pixels = np.array(Image.open(file))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    with caplog.at_level("WARNING"):
        assert ensure_store(cfg).path != first.path
    assert f"the source has changed since {first.path} was built" in caplog.text


def test_a_store_that_was_renamed_is_no_store_of_a_changed_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Renaming it is what we say of a damaged one."""
    cfg = replace(SMALL, store=str(tmp_path))
    path = ensure_store(cfg).path
    path.rename(path.with_name(f"{path.name}.bad"))
    with caplog.at_level("WARNING"):
        assert ensure_store(cfg).path == path
    assert "the source has changed" not in caplog.text


@pytest.mark.law("L12")
@pytest.mark.parametrize("limit", [200, 40_000, 120_000])
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, limit: int) -> None:
    """A file-size limit stands for the disk: the write fails in the middle with an error of the system."""
    cfg = replace(SMALL, store=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "segtrain", "prepare", *arguments(cfg), "data.workers=2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("segtrain: error:")
    assert str(tmp_path) in last
    assert "data.store" in last
    assert not leftovers(tmp_path)


@pytest.mark.law("L12")
@pytest.mark.parametrize("damage", ["no index", "half an index", "truncated image", "missing mask", "not an index"])
def test_a_damaged_store_is_named(tmp_path: Path, damage: str) -> None:
    store = ensure_store(replace(SMALL, store=str(tmp_path))).path
    index, image = store / "index.json", next((store / "images").iterdir())
    match damage:
        case "no index":
            index.unlink()
        case "half an index":
            os.truncate(index, 100)
        case "truncated image":
            os.truncate(image, image.stat().st_size - 1)
        case "missing mask":
            (store / "masks" / image.name).unlink()
        case "not an index":
            index.write_text(json.dumps({"label": 1, "patients": [{"patient": "x"}]}))
    with pytest.raises(DataError, match=r"rename") as caught:
        open_store(store)
    assert str(store) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_slices_are_read_as_they_lie_in_the_files(tmp_path: Path) -> None:
    store = ensure_store(replace(SMALL, store=str(tmp_path)))
    for patient, entry in store.patients.items():
        files = [np.load(store.path / kind / f"{patient}.npy") for kind in ("images", "masks")]
        volume = store.volume(patient)
        assert np.array_equal(volume[0], files[0])
        assert np.array_equal(volume[1], files[1])
        image, mask = np.empty_like(files[0][:2]), np.empty_like(files[1][:2])
        store.read(patient, entry.slices - 2, image, mask)
        assert np.array_equal(image, files[0][-2:])
        assert np.array_equal(mask, files[1][-2:])


@pytest.mark.law("L12")
@pytest.mark.parametrize("lost_bytes", [1, 32 * 32 + 50, 10**9])
def test_a_file_that_loses_its_end_while_it_is_in_use_is_named(tmp_path: Path, lost_bytes: int) -> None:
    store = ensure_store(replace(SMALL, store=str(tmp_path)))
    patient, entry = next(iter(store.patients.items()))
    file = store.path / "masks" / f"{patient}.npy"
    os.truncate(file, max(0, file.stat().st_size - lost_bytes))
    image, mask = np.empty((1, 32, 32, 3), np.float16), np.empty((1, 32, 32), np.uint8)
    with pytest.raises(DataError, match=f"{patient}.npy: cut short; rename"):
        store.read(patient, entry.slices - 1, image, mask)


def test_the_summary_counts_what_is_in_the_store(tmp_path: Path) -> None:
    store = ensure_store(replace(SMALL, store=str(tmp_path)))
    rows = dict(summary(store))
    masks = [store.volume(patient)[1] for patient in store.patients]
    assert rows["patients"] == "3"
    assert rows["slices"].startswith(f"{sum(map(len, masks))} ")
    assert rows["slices without lesion"].startswith(f"{sum(not plane.any() for m in masks for plane in m)} ")
    assert rows["lesion voxels"].startswith(f"{min(m.sum() for m in masks)} to {max(m.sum() for m in masks)} ")
    assert rows["institutions"] == "PHANTOM 3"
    assert "made up" in rows["data"]
