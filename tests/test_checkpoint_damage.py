"""L7: whatever happens to a checkpoint, a whole one is found or the run says that none is; loading runs no code."""

import contextlib
import json
import logging
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from snapshots import FILES, newest_of, same, save, snapshot

from segtrain.errors import RunError
from segtrain.run import Run, checkpoint, manifest
from segtrain.run.checkpoint import newest, read


@pytest.mark.law("L7")
def test_an_error_of_the_disk_condemns_no_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, 1, 2)

    def broken(file: Path) -> dict[str, object]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "fingerprint", broken)
    with pytest.raises(RunError, match="cannot be read"):
        newest(run)
    monkeypatch.undo()
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(2))


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << (position % 8)
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped at the start": lambda f: flip(f, 3),
    "flipped in the middle": lambda f: flip(f, f.stat().st_size // 2),
    "flipped at the end": lambda f: flip(f, f.stat().st_size - 1),
    "deleted": lambda f: f.unlink(),
    "emptied": lambda f: os.truncate(f, 0),
    "cut": lambda f: os.truncate(f, f.stat().st_size - 2),
    "longer": lambda f: f.write_bytes(f.read_bytes() + b"\0"),
    "a folder": lambda f: (f.unlink(), f.mkdir()),
}


@pytest.mark.law("L7")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_set_aside_loudly_and_the_one_before_is_taken(
    run: Run, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(run, 1, 2)
    DAMAGE[damage](run.checkpoint(2) / name)
    with caplog.at_level(logging.WARNING):
        found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(1))
    assert "step-00000002" in caplog.text
    (kept,) = run.checkpoints.glob("bad-step-00000002-*")
    assert kept.is_dir()
    save(run, 2)  # trained again
    again = newest_of(run)
    assert again is not None
    assert same(again, snapshot(2))


@pytest.mark.law("L7")
def test_cut_at_any_length_it_is_never_taken_for_whole(run: Run) -> None:
    save(run, 1)
    folder = run.checkpoint(1)
    rng = random.Random(0)
    for name in FILES:
        content = (folder / name).read_bytes()
        for length in {0, 1, 7, 8, 9, len(content) - 1, *(rng.randrange(len(content)) for _ in range(40))}:
            (folder / name).write_bytes(content[:length])
            if name == "manifest.json" and content[:length].strip() == content.strip():
                continue  # only the last newline is gone: what it says is whole
            with pytest.raises(checkpoint.CorruptCheckpoint):
                read(folder)
        (folder / name).write_bytes(content)
    assert same(read(folder), snapshot(1))


@pytest.mark.law("L7")
@pytest.mark.parametrize("earlier", [False, True], ids=["of today", "of earlier versions"])
def test_a_change_of_any_letter_in_a_manifest_drops_nothing(run: Run, earlier: bool) -> None:
    save(run, 1)
    file = run.checkpoint(1) / "manifest.json"
    if earlier:
        file.write_text(json.dumps(manifest.read_manifest(file.parent), indent=1) + "\n")
    content = file.read_text()
    assert same(read(file.parent), snapshot(1))
    for place, letter in enumerate(content):
        file.write_text(content[:place] + chr(ord(letter) ^ 1) + content[place + 1 :])
        with contextlib.suppress(checkpoint.CorruptCheckpoint):
            assert same(read(file.parent), snapshot(1)), f"{letter!r} at {place}"


@pytest.mark.law("L7")
def test_moments_that_the_manifest_does_not_list_are_not_left_out(run: Run) -> None:
    save(run, 1, 2)
    folder = run.checkpoint(2)
    listed = manifest.read_manifest(folder)
    del listed["optimizer.safetensors"]
    for content in (listed, manifest.manifest_of(listed)):
        (folder / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(checkpoint.CorruptCheckpoint, match="lists no moments"):
            read(folder)
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(1))


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {os.environ['TRAP']}",)


@pytest.mark.law("L7")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("listed", [False, True], ids=["as it is", "in the manifest"])
def test_a_malicious_pickle_under_any_name_runs_nothing(
    run: Run, name: str, listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    save(run, 1, 2)
    file = run.checkpoint(2) / name
    file.write_bytes(pickle.dumps(Trap()))
    if listed and name != "manifest.json":
        fingerprints = manifest.read_manifest(file.parent) | {name: manifest.fingerprint(file)}
        (file.parent / "manifest.json").write_text(json.dumps(manifest.manifest_of(fingerprints)))
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(1))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))  # the trap works
    assert (tmp_path / "sprung").exists()


@pytest.mark.law("L7")
@pytest.mark.parametrize("pointer", ["", "step-00000009\n", "../../etc\n", None])
def test_a_pointer_that_names_nothing_loses_nothing(run: Run, pointer: str | None) -> None:
    save(run, 1, 2)
    if pointer is None:
        run.latest_pointer.unlink()
    else:
        run.latest_pointer.write_text(pointer)
        run.best_pointer.write_text(pointer)
    found = newest_of(run)
    assert found is not None
    assert same(found, snapshot(2))
    save(run, 3)
    assert run.latest_pointer.read_text() == "step-00000003\n"


@pytest.mark.law("L7")
@pytest.mark.law("L12")
def test_when_none_is_whole_nothing_is_started_over_silently(run: Run) -> None:
    assert newest(run) is None
    save(run, 1, 2)
    for step in (1, 2):
        flip(run.checkpoint(step) / "model.safetensors", 100)
    for _ in range(2):  # also when it is tried again
        with pytest.raises(RunError, match="--fresh"):
            newest(run)
    assert len(list(run.checkpoints.glob("bad-*"))) == 2
