"""Keys that the split or the engine of a config does not read: refused, and read of runs that have them."""

from pathlib import Path

import pytest

from segtrain.config import Config, first_difference, from_tree, load_config
from segtrain.errors import ConfigError


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.fold=3", ["data.fold=3 means nothing to data.split=reference", "set data.split=kfold or file"]),
        ("data={split: kfold, split_file: s.json}", ["data.split_file=s.json means nothing to data.split=kfold"]),
        ("data.split_file=s.json", ["data.split_file=s.json means nothing to data.split=reference", "data.split=file"]),
        ("deepspeed.zero=3", ["deepspeed.zero=3 means nothing to engine=ddp", "set engine=deepspeed"]),
        ("deepspeed={offload: true}", ["deepspeed.offload=true means nothing to engine=ddp"]),
        ("deepspeed={extra: {a: {b: 1}}}", ["deepspeed.extra={'a': {'b': 1}} means nothing to engine=ddp"]),
    ],
)
def test_a_key_that_is_not_read_is_refused(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    for word in words:
        assert word in str(caught.value)


def test_an_engine_may_be_chosen_over_a_file_for_the_other(tmp_path: Path) -> None:
    file = tmp_path / "zero.yaml"
    file.write_text("engine: deepspeed\ndeepspeed: {zero: 3}\n")
    assert load_config(file).deepspeed.zero == 3
    assert load_config(file, ["engine=ddp"]).engine == "ddp"
    file.write_text("deepspeed: {zero: 3}\n")
    with pytest.raises(ConfigError, match=r"zero.yaml: deepspeed.zero=3 means nothing to engine=ddp"):
        load_config(file)


@pytest.mark.law("L6")
def test_a_run_with_a_key_that_its_split_does_not_read_goes_on_without_it() -> None:
    """Earlier versions took it and passed it over."""
    old = from_tree({"data": {"fold": 3, "split_file": "s.json"}}, "a run", stored=True)
    assert old.data.fold == 3
    assert first_difference(Config(), old) is None
    kfold = from_tree({"data": {"split": "kfold", "fold": 3}}, "here")
    assert first_difference(kfold, old) == ("data.split", "kfold", "reference")
    assert first_difference(kfold, from_tree({"data": {"split": "kfold"}}, "here")) == ("data.fold", 3, 0)
