"""The tables of built-in parts: pages and help say what the rows say."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from pages import markdown_table

from segtrain.commands import networks
from segtrain.config import (
    AUGMENTATIONS,
    ENGINES,
    LOSSES,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
    Config,
    flatten,
    load_config,
)
from segtrain.config.signature import signature_of

ROOT = Path(__file__).resolve().parent.parent
COUNTS = {14: "fourteen"}


def test_the_page_of_losses_has_a_line_for_each() -> None:
    rows = []
    for name, part in LOSSES.items():
        parameters = [p for p in signature_of(part.reference).parameters if p.keyword_only]
        options = ", ".join(f"{p.name}={json.dumps(p.default)}" for p in parameters)
        rows.append((name, part.over, part.doc, options, part.source))
    table = markdown_table(("name", "over", "value", "options", "source"), rows)
    assert table in (ROOT / "docs" / "losses.md").read_text()


def test_the_page_of_augmentations_has_a_line_for_each() -> None:
    rows = [(name, part.doc, part.source) for name, part in AUGMENTATIONS.items()]
    table = markdown_table(("name", "what it does", "source"), rows)
    assert table in (ROOT / "docs" / "augmentation.md").read_text()


def test_the_page_of_ablations_counts_and_names_them() -> None:
    text = (ROOT / "docs" / "ablation.md").read_text()
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


def test_help_has_each_key_with_the_value_of_the_bare_command_and_its_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantom").write_text("name: mine\n")  # whatever lies here, a bare command does not read it
    with pytest.raises(SystemExit):
        networks.command(["--help"])
    text = capsys.readouterr().out
    bare, default = (dict(flatten(asdict(cfg))) for cfg in (load_config(None), Config()))
    assert bare["name"] == "phantom"
    for key, value in bare.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        line = re.search(rf"^  {key}={re.escape(shown)}(?: \[(.*?)\])?(  +|\n {{44}})\S.*$", text, re.MULTILINE)
        assert line, key
        assert (line[1] or shown) == (default[key] if isinstance(value, str) else json.dumps(default[key]))
    assert "fp32|tf32|bf16|fp16" in text


@pytest.mark.law("L12")
def test_an_option_of_other_programs_leads_to_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        networks.command(["--batch-size", "8"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("did you mean train.global_batch=...?\n")
