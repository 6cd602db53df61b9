"""The licence of a data set goes with what is made of it: reports, predictions, models, archives."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zipfile import ZipFile

import pytest
import yaml
from made_runs import train

from jobs.offline import archive, wrap_up
from jobs.queue.items import Item, Queue
from segtrain.commands import export
from segtrain.config import DataConfig, load_config
from segtrain.config.comparison import first_difference
from segtrain.config.licence import LONGEST, NOTICE, UNKNOWN, licence_of
from segtrain.data.sources.licence import stated_licence
from segtrain.data.store import Store
from segtrain.data.store_note import StoreNote
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.evaluation.notice import licence_behind, notice_of
from segtrain.report.collect import collect
from segtrain.report.texts import Language, say_in
from segtrain.report.trained import trained_tables
from segtrain.run import Run

LGG = "CC BY-NC-SA 4.0"


def test_it_is_what_the_config_says_or_what_is_known_of_the_source() -> None:
    assert licence_of(DataConfig(source="lgg", root="/data")).startswith(LGG)
    assert licence_of(DataConfig()).startswith("none: patients made up")
    assert licence_of(DataConfig(source="nifti", root="/data")) == UNKNOWN
    assert licence_of(DataConfig(source="nifti", root="/data", licence="CC0\n 1.0\x1b")) == "CC0 1.0"


def test_a_run_goes_on_with_another_text() -> None:
    mine = load_config(None, [])
    assert first_difference(replace(mine, data=replace(mine.data, licence="CC0")), mine) is None


@pytest.mark.parametrize(
    ("name", "text", "stated"),
    [
        ("dataset.json", '{"licence": "CC BY-SA 4.0"}', "CC BY-SA 4.0"),
        ("dataset.json", '{"license": "  a\\n b \\u001b"}', "a b"),
        ("dataset_description.json", '{"Name": "x", "License": "CC0"}', "CC0"),
        ("dataset.json", json.dumps({"licence": "x" * 2000}), "x" * LONGEST),
        ("dataset.json", '{"licence": ["CC0"]}', None),
        ("dataset.json", '{"licence": " "}', None),
        ("dataset.json", "[1", None),
        ("README.md", "CC0", None),
    ],
)
def test_a_data_set_states_it_in_its_description(tmp_path: Path, name: str, text: str, stated: str | None) -> None:
    (tmp_path / name).write_text(text)
    assert stated_licence(DataConfig(source="nifti", root=str(tmp_path))) == stated


def test_what_the_data_state_comes_into_the_config_on_all_ranks(tiny_store: Store) -> None:
    store = replace(tiny_store, licence="CC0")
    assert store.resolved(DataConfig()).licence == "CC0"
    assert store.resolved(DataConfig(licence="mine")).licence == "mine"
    assert StoreNote.of(store).licence == "CC0"


def test_the_report_names_it(tmp_path: Path) -> None:
    runs = collect([train(tmp_path / "a").root])
    languages: dict[Language, str] = {"en": "licence of the data", "zh": "数据的许可"}
    for language, words in languages.items():
        (table, *_) = trained_tables(runs, say_in(language))
        cells = [[cell.text for cell in row] for row in table.rows]
        assert [words, licence_of(DataConfig())] in cells


def test_predictions_have_a_notice(predicted_patient: Path) -> None:
    text = (predicted_patient / NOTICE).read_text()
    assert text.endswith(f"trained: {licence_of(DataConfig())}\n")
    with ZipFile(predicted_patient / "predictions.zip") as pack:
        assert pack.read(NOTICE).decode() == text


def test_of_weights_alone_nobody_knows_the_data(trained_run: Run) -> None:
    (one,) = select_checkpoints([trained_run.root], "best", [])
    bare = replace(one, is_bare=True)
    assert licence_behind(bare) == UNKNOWN
    assert licence_behind(replace(bare, cfg=replace(one.cfg, data=replace(one.cfg.data, licence="CC0")))) == "CC0"
    assert notice_of([one, bare, one]).splitlines()[-2:] == [
        f"trained, trained: {licence_of(DataConfig())}",
        f"trained: {UNKNOWN}",
    ]


def test_a_licence_that_is_given_goes_with_the_model(trained_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "model.zip"
    export.command([str(trained_run.root), "--out", str(out), "--licence", "CC BY 4.0, doi:10.5281/zenodo.0"])
    with ZipFile(out) as pack:
        text = pack.read("trained/config.yaml").decode()
    tree = yaml.safe_load(text)
    assert tree.pop("data") == {**trained_run.config_tree()["data"], "licence": "CC BY 4.0, doi:10.5281/zenodo.0"}
    assert tree == {key: value for key, value in trained_run.config_tree().items() if key != "data"}
    assert text.splitlines()[0] == trained_run.config_file.read_text().splitlines()[0]


def item(name: str) -> Item:
    """A run of a queue, by its name."""
    any_item: Any = SimpleNamespace(name=name)
    return cast(Item, any_item)


def test_the_archive_of_a_queue_has_a_notice(tmp_path: Path) -> None:
    names = ("lgg", "made_up", "never")
    for name in names[:2]:
        run = train(tmp_path / "night" / name)
        if name == "lgg":
            text = run.config_file.read_text().replace("root: null", "root: /data", 1)
            run.config_file.write_text(text.replace("source: phantom", "source: lgg", 1))
    queue = Queue("night", tmp_path / "night", [item(name) for name in names])
    assert wrap_up.write_notice(queue, lambda: True) is None
    archive.write(queue.folder)
    with ZipFile(queue.folder / archive.NAME) as pack:
        text = pack.read(f"night/{NOTICE}").decode()
    assert f"lgg: {LGG}" in text
    assert f"made_up: {licence_of(DataConfig())}" in text
    assert "never" not in text
