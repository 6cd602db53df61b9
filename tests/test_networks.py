"""The command that lists the networks, and the page that shows its table."""

import re
from pathlib import Path

import pytest
from pages import markdown_table

from segtrain.commands import networks
from segtrain.config import NETWORKS, DataConfig, ModelConfig, load_config
from segtrain.models import cost
from segtrain.models.make import make_model

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "networks.md").read_text()


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    """The table at the defaults of the config's classes, by network and column."""
    data = DataConfig()
    table = cost.table(ModelConfig(), data.channels, data.image_size)
    return {row[0]: dict(zip(cost.HEADER, row, strict=True)) for row in table}


def test_the_page_shows_what_the_command_prints(rows: dict[str, dict[str, str]]) -> None:
    assert markdown_table(cost.HEADER, [list(row.values()) for row in rows.values()]) in PAGE


def test_the_page_describes_every_network_as_its_row_does() -> None:
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(NETWORKS)
    for name, part in NETWORKS.items():
        assert part.source in " ".join(sections[name].split())
        takes = re.search(r"^Takes (.*?)\.$", sections[name], re.MULTILINE | re.DOTALL)
        assert takes
        own = {"depth": str(part.depth), "norm": part.norm, "deep_supervision": str(part.supervision or "none")}
        values = dict(re.findall(r"`(\w+)` \(([\w.]+)", takes[1]))
        values.pop("features", None)
        assert values == {key: own[key] for key in part.keys}


def test_the_table_counts_what_the_network_has_and_does(rows: dict[str, dict[str, str]]) -> None:
    """The reference's 7.76 M parameters; one convolution by hand."""
    assert set(rows) == set(NETWORKS)
    unet = rows["unet"]
    assert (
        unet["M params"] == f"{sum(p.numel() for p in make_model(ModelConfig(), 0).parameters()) / 1e6:.2f}" == "7.76"
    )
    first, second = (cost.row(ModelConfig(features=8), channels, size_px=64) for channels in (3, 9))
    more = 2 * 64 * 64 * 8 * 9 * 6 / 1e9  # six more channels into the first convolution, nothing else
    assert float(second[3]) - float(first[3]) == pytest.approx(more, abs=0.011)
    for row in rows.values():
        forward, both = float(row["GFLOP"]), float(row["+backward"])
        assert 2.9 * forward < both < 3.1 * forward, "the backward pass is twice the work"
    assert [name for name, row in rows.items() if row["deep"] != "no"] == ["resunet", "resenc", "mednext"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("given", ["norm=instance", "depth=3", "deep_supervision=0.5", "features=16"])
def test_settings_are_such_as_the_config_accepts(name: str, given: str) -> None:
    asked = load_config(None, [f"model.{given}"]).model
    model = cost.settings(asked, name)
    accepted = load_config(
        None, [f"model.{key}={value}" for key, value in vars(model).items() if value not in (None, ())]
    )
    assert accepted.model == model


def test_neighbours_are_channels_of_the_image() -> None:
    assert [DataConfig(neighbours=n).channels for n in (0, 1, 2)] == [3, 9, 15]


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert networks.command(["data.image_size=64", "model.features=4"]) == 0
    shown = capsys.readouterr().out
    assert "Networks, one image of 3 x 64 x 64" in shown
    assert all(name in shown for name in NETWORKS)
    assert "…" not in shown, "80 columns are enough"
