"""The tables of built-in parts: pages, help and README say what the rows say."""

from pathlib import Path

import pytest
from pages import markdown_table

from segtrain.commands import networks
from segtrain.config import AUGMENTATIONS, ENGINES, LOSSES, NETWORKS, OPTIMIZERS, SCHEDULES

ROOT = Path(__file__).resolve().parent.parent
COUNTS = {14: "fourteen"}


def test_the_page_of_losses_has_a_line_for_each() -> None:
    rows = [(name, part.over, part.doc, part.source) for name, part in LOSSES.items()]
    table = markdown_table(("name", "over", "value", "source"), rows)
    assert table in (ROOT / "docs" / "losses.md").read_text()


def test_the_page_of_augmentations_has_a_line_for_each() -> None:
    rows = [(name, part.doc, part.source) for name, part in AUGMENTATIONS.items()]
    table = markdown_table(("name", "what it does", "source"), rows)
    assert table in (ROOT / "docs" / "augmentation.md").read_text()


def test_the_readme_counts_and_names_them() -> None:
    text = (ROOT / "README.md").read_text()
    assert f": {COUNTS[len(LOSSES)]}, weighted sums" in text
    for key, table in (("optim.name", OPTIMIZERS), ("schedule", SCHEDULES)):
        assert f"`{key}=" + "\\|".join(table) + "`" in text
    assert f"`model.name={list(NETWORKS)[1]}`" in text


@pytest.mark.parametrize("table", [NETWORKS, LOSSES, OPTIMIZERS, SCHEDULES, AUGMENTATIONS, ENGINES])
def test_help_lists_them(table: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        networks.command(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in table)
