"""Inputs that would never end, or eat the memory: bounded, and refused by name."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from predictions import write_patient

from segtrain.config import Config, load_config
from segtrain.config.yaml_text import parse_yaml
from segtrain.data.order import Order
from segtrain.data.sources import LggSource
from segtrain.data.sources.phantom import phantom_patient
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import ConfigError, DataError
from segtrain.text_file import text_of

REFERENCES = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi"))
YAML = {
    "5,000 levels of lists": ("[" * 5000 + "]" * 5000, "nested too deeply"),
    "3,000 levels of mappings": ("\n".join(f"{' ' * depth}a:" for depth in range(3000)), "nested too deeply"),
    "a mapping in itself": ("data: &a\n  store: *a", "refers to itself"),
    "a list in itself": ("model: &a [*a]", "refers to itself"),
    "references to references": ("a: &a [x, x, x, x, x, x, x, x, x]\n" + REFERENCES, "more than 100000 entries"),
    "a number in base 8": ("train:\n  epochs: 010", "010 is a number in base 8"),
    "a number in base 60": ("train:\n  epochs: 1:30", "train.epochs='1:30'"),
    "yes for a number": ("train:\n  epochs: yes", "train.epochs=True: a number belongs there"),
    "on for a float": ("optim:\n  lr: on", "optim.lr=True: a number belongs there"),
    "true for a weight": ("loss:\n  dice: true", "the weight of dice is True"),
    "a key twice": ("name: a\nname: b", "name is listed twice"),
}


@pytest.mark.quick
@pytest.mark.law("L12")
@pytest.mark.parametrize("what", YAML)
def test_a_config_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    text, words = YAML[what]
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "c.yaml")
    assert words in str(refused.value)
    assert "c.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.quick
def test_text_stays_text_and_numbers_numbers() -> None:
    text = "a: 18:30\nb: 2026-11-22\nc: 2026-11-22T18:00:05\nd: 0\ne: -12\nf: 1e-3\ng: 1.5\nh: 0x10\ni: no\nj: 0.10"
    assert parse_yaml(text) == {
        **{"a": "18:30", "b": "2026-11-22", "c": "2026-11-22T18:00:05", "d": 0, "e": -12, "f": "1e-3", "g": 1.5},
        **{"h": 16, "i": False, "j": 0.1},
    }
    assert load_config(None, ["stop.deadline=2026-11-22T18:00:05"]).stop.deadline == "2026-11-22T18:00:05"
    assert load_config(None, ["optim.lr=1e-3"]).optim.lr == 1e-3
    with pytest.raises(ConfigError, match="base 8"):
        load_config(None, ["train.epochs=010"])


@pytest.mark.quick
def test_references_may_be_used() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: [*x, *x]") == {"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}] * 2}


@pytest.mark.quick
@pytest.mark.law("L12")
def test_a_pipe_and_a_device_are_no_text(tmp_path: Path, tiny: Config) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(OSError, match="not a file"):
            text_of(path)
    with pytest.raises(ConfigError, match="/dev/zero: cannot read the config"):
        load_config("/dev/zero")
    (tmp_path / "long").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="larger than"):
        text_of(tmp_path / "long", limit_bytes=10)
    assert text_of(tmp_path / "long", limit_bytes=11) == "x" * 11


@pytest.mark.law("L12")
@pytest.mark.parametrize("what", ["/dev/zero", "pipe"])
def test_a_split_or_a_list_of_people_that_never_ends(what: str, tiny_store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = str(tmp_path / what) if what == "pipe" else what
    for overrides in (["data.split=file", f"data.split_file={path}"], [f"data.groups={path}"]):
        with pytest.raises(DataError, match=rf"{path}: .*not a file"):
            make_split(load_config(None, overrides).data, tiny_store)


@pytest.mark.law("L12")
def test_a_slice_number_from_a_date_costs_no_memory(tmp_path: Path) -> None:
    image_shwc, mask_shw = phantom_patient(5, 1, 64)
    write_patient(tmp_path, "A", image_shwc[:4], mask_shw[:4])
    for file in (tmp_path / "A").glob("A_3*"):
        file.rename(file.with_name(file.name.replace("_3", "_20261129120000")))
    with pytest.raises(DataError, match=r"slice 3 is missing \(numbers go from 1 to 20261129120000\)"):
        LggSource(tmp_path).files("A")


@pytest.mark.quick
@pytest.mark.law("L12")
def test_a_global_batch_of_a_million_is_refused() -> None:
    areas = [[5, 0, 3]] * 10
    with pytest.raises(ConfigError, match=r"global_batch=1000000 is more than 16 times the 30 training slices"):
        _ = Order(areas, "lesion", 1_000_000, 1).lanes
    assert Order(areas, "lesion", 40, 1).lanes == 10
