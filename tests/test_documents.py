"""The commands in the README, in docs/ and in the commands' own help can be pasted into a shell as they stand."""

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import OURS, PAGES, ROOT, bare, checkout, commands, examples, name_and_arguments, spans, words_of

from jobs.trials import Searching
from segtrain.__main__ import COMMANDS
from segtrain.commands.arguments import EVALUATION_KEYS, config_of, runs_and_overrides, runs_or_weights
from segtrain.commands.check import overrides_of
from segtrain.commands.report import ATLAS_KEYS
from segtrain.config import Reference, load_config
from segtrain.config.importing import load
from segtrain.config.kinds import kind_of
from segtrain.run.ablation import expand
from segtrain.runtime.stop import Stop


class Parsed(Exception):
    """A command line, parsed; the command is not run."""


SPANS = [span for page in PAGES for span in spans(page)]
PASTED = sorted(
    {line for line in map(bare, [*commands(), *examples()]) if line.startswith(OURS)}
    | {span for span in SPANS if span.startswith(OURS) and "=" in span and " ..." not in span}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("checkout"))


def test_there_are_commands_to_paste() -> None:
    assert {name_and_arguments(words_of(line))[0] for line in PASTED} >= set(COMMANDS) - {"networks"}


@pytest.mark.parametrize("line", PASTED)
def test_a_command_is_taken_as_it_stands(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Stop, "listen", lambda _: None)
    for method in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, stopping(getattr(argparse.ArgumentParser, method)))
    name, arguments = name_and_arguments(words_of(line))
    if "--version" in arguments:
        return
    with pytest.raises(Parsed) as caught:
        import_module(COMMANDS[name][0]).command(arguments)
    (found,) = caught.value.args
    if name == "check":
        kind = found.kind or kind_of(load(Reference.of(found.part)))
        assert kind is not None
        load_config(found.config, overrides_of(found.part, found.settings, kind))
    elif hasattr(found, "config"):
        config_of(found)
    elif name == "search":
        Searching(found.spec, found.overrides).next(keep=False)
        assert "passed over" not in capsys.readouterr().err
    elif hasattr(found, "spec"):
        expand(found.spec, found.overrides)
    elif name in ("evaluate", "predict"):
        runs_or_weights(found.words, found.weights_config)
    elif name in ("report", "suspects"):
        runs_and_overrides(found.words, ATLAS_KEYS if name == "report" else EVALUATION_KEYS)


def stopping(parse: Any) -> Any:
    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        raise Parsed(parse(parser, *arguments))

    return parse_and_stop


@pytest.mark.parametrize("span", sorted({span for span in SPANS if "={" in span}))
def test_settings_with_braces_are_taken_as_they_stand(span: str) -> None:
    (word,) = words_of(span)
    load_config(None, [word])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_where_the_repository_is_read(page: Path) -> None:
    """`make docs` checks the same of the site, and anchors."""
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)|src=\"([^\"]+)\"", page.read_text())
    missing = {one or other for one, other in targets if not (page.parent / (one or other)).exists()}
    assert not missing


def leaves(nav: Any) -> Iterator[str]:
    """The pages in a navigation of mkdocs."""
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [value] if isinstance(value, str) else leaves(value)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents}
    assert set(leaves(site["nav"])) == pages - {site["not_in_nav"].strip()}
    assert site["theme"]["font"] is False
    assert (ROOT / "docs" / site["extra"]["polyfills"][0]).exists(), "else search takes one from another host"


def test_where_things_are_is_where_they_are() -> None:
    """Each folder of docs/code.md, and each file that it names of it."""
    rows = re.findall(r"^\| (`.+?`) \| (.+) \|$", (ROOT / "docs" / "code.md").read_text(), re.MULTILINE)
    folders = {name: text for names, text in rows for name in re.findall(r"`(.+?)`", names)}
    assert {f"{path.name}/" for path in (ROOT / "segtrain").iterdir() if (path / "__init__.py").exists()} <= {
        name.removeprefix("segtrain/") for name in folders
    }
    for name, text in folders.items():
        assert (ROOT / name).exists(), name
        above = ROOT / name if name.endswith("/") else (ROOT / name).parent
        for file in re.findall(r"`([\w/]+\.(?:py|sh))`", text):
            assert (above / file).exists(), f"{name}: {file}"
