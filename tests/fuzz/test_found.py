"""The smallest input of each fault that the fuzz found in configs, weights and checkpoints: refused in one line."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from limits import limited
from readers import checkpointed, forge, network
from refusals import DEEP, DIGITS, put, refusal
from run_readers import DAMAGED, run_folders

from jobs.offline import queue_file
from segtrain.config import load_config, to_yaml
from segtrain.config.yaml_text import parse_yaml
from segtrain.models.weights import load_weights
from segtrain.run import Run, checkpoint, expand

CONFIGS = {
    "a number of 5,000 digits": f"seed: {DIGITS}",
    "a tag that does not fit": "skip_bad: !!bool maybe",
    "a list as engine": "engine: [ddp]",
    "a zero byte": r'name: "\0"',
    "half a letter": r'name: "\ud800"',
    "a key without end": f"{'a' * 20_000}: 1",
    "a path without end": f"loss: {'a' * 300}.py:f",
    "a name too long for a folder": f"name: {'a' * 201}",
    "the home folder of nobody": "loss: ~nobody-of-this-name/own.py:f",
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("what", CONFIGS)
def test_a_config(what: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIGS[what])
    assert "c.yaml" in refusal(lambda: load_config(tmp_path / "c.yaml"))


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_a_change_that_no_config_can_hold(value: str) -> None:
    assert "is no letter" in refusal(lambda: load_config(None, [f"name={value}"]))


def test_a_path_of_odd_bytes_is_kept() -> None:
    cfg = load_config(None, ["data.store=/a/\udcff/\x1b"])
    assert load_config(None, tree=parse_yaml(to_yaml(cfg))) == cfg


def test_a_name_of_a_config_without_end() -> None:
    assert "cannot read the config" in refusal(lambda: load_config("a/" * 10 + "a" * 300))


def test_more_runs_than_anybody_trains(tmp_path: Path) -> None:
    spec = {"name": "a", "base": "phantom.yaml", "repeats": 2**64, "variants": {"b": {}}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    assert "spec.yaml: repeats=18446744073709551616" in refusal(lambda: expand(tmp_path / "spec.yaml", []))
    spec |= {"repeats": 2000, "folds": [0, 1]}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    assert "4000 runs, but 2000 is the most" in refusal(lambda: expand(tmp_path / "spec.yaml", []))


def saved(state: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def compressed(state: Any) -> bytes:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(state))) as given,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as taken,
    ):
        for name in given.namelist():
            taken.writestr(name, given.read(name))
    return stream.getvalue()


WEIGHTS = {
    "a memo that is not there": b"\x80\x02h=.",
    "an empty stack": b"\x80\x02s.",
    "a text that is not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "a text of 2 GB": b"\x80\x02X\xff\xff\xff\x7fa.",
    "a call without arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "numbers as names": saved({1: torch.zeros(1)}),
    "a sparse tensor": saved({"a": torch.zeros(2, 2).to_sparse()}),
    "more than the file has bytes": compressed({"a": torch.zeros(10_000)}),
    "nothing": b"",
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("what", WEIGHTS)
def test_weights(what: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(WEIGHTS[what])
    assert str(path) in refusal(lambda: load_weights(network(), path))


@pytest.mark.law("L12")
@pytest.mark.parametrize("older", [False, True])
def test_weights_with_a_name_of_a_million_letters_take_no_time(tmp_path: Path, older: bool) -> None:
    """As torch does, whose search through its own message about the name takes hours."""
    content = b"\x80\x02c" + b"a" * 1_000_000 + b"\nsystem\n)R."
    path = tmp_path / "w.pt"
    if older:
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(io.BytesIO(saved({}))) as given, zipfile.ZipFile(path, "w") as taken:
            for name in given.namelist():
                taken.writestr(name, content if name.endswith("data.pkl") else given.read(name))
    with limited(tmp_path, 5.0):
        assert str(path) in refusal(lambda: load_weights(network(), path))


@pytest.mark.parametrize("name", ["pipe.pt", "pipe.safetensors"])
def test_weights_that_are_a_pipe(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert "not a file" in refusal(lambda: load_weights(network(), tmp_path / name))


def test_an_older_file_of_weights_is_read_as_ever(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    load_weights(network(), tmp_path / "old.pt")


@pytest.mark.law("L7")
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "model.safetensors"])
@pytest.mark.parametrize("what", ["a pipe", "a link to itself", "a list", "nested"])
def test_a_checkpoint(name: str, what: str, tmp_path: Path) -> None:
    run = Run(put(tmp_path, dict(checkpointed())) / "run")
    file = run.checkpoint(2) / name
    file.unlink()
    if what == "a pipe":
        os.mkfifo(file)
    elif what == "a link to itself":
        file.symlink_to(file.name)
    else:
        file.write_text("[]" if what == "a list" else DEEP)
        forge(file.parent)
    assert checkpoint.newest(run) == "step-00000001" or name == "manifest.json"
    assert checkpoint.newest(run) is not None


@pytest.mark.parametrize("step", ["9" * 20, "9" * 300, "1" * 5000])
def test_a_pointer_to_a_step_without_end(step: str, tmp_path: Path) -> None:
    run = Run(put(tmp_path, dict(checkpointed())) / "run")
    run.latest_pointer.write_text(f"step-{step}\n")
    assert run.latest_checkpoint() == "step-00000002"


@pytest.mark.parametrize("name", ["BEST", "LATEST"])
def test_a_folder_in_place_of_a_pointer_is_kept_aside(name: str, tmp_path: Path) -> None:
    run = Run(put(tmp_path, dict(run_folders())) / DAMAGED)
    pointer = run.checkpoints / name
    pointer.unlink()
    pointer.mkdir()
    run.rewind(15, 1)
    assert not pointer.is_dir()


@pytest.mark.law("L12")
def test_a_queue_s_name_that_is_too_long_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "queue.yaml").write_text(f"name: {'a' * 300}\nruns: [{{config: phantom}}]\n")
    assert "queue.yaml: name=" in refusal(lambda: queue_file.load(tmp_path / "queue.yaml", []))
