"""The commands in the README, in docs/ and in the commands' own help can be pasted into a shell as they stand."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

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

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
OURS = ("segtrain ", "torchrun ", "python -m segtrain", "python -m jobs")


class Parsed(Exception):
    """A command line, parsed; the command is not run."""


def blocks() -> Iterator[str]:
    """The commands of the blocks of shell, lines that go on joined."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield from block.replace("\\\n", " ").splitlines()


def spans() -> Iterator[str]:
    for page in PAGES:
        yield from re.findall(r"`([^`\n]+)`", page.read_text())


def examples() -> Iterator[str]:
    for module, _ in COMMANDS.values():
        yield from (line.strip() for line in getattr(import_module(module), "EXAMPLES", "").splitlines())


def words_of(line: str) -> list[str]:
    """The words that bash makes of a line: quotes, braces, patterns and comments are as in a terminal."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.split("\0")[:-1]


PASTED = sorted(
    {line for line in [*blocks(), *examples()] if line.startswith(OURS)}
    | {span for span in spans() if span.startswith(OURS) and "=" in span and " ..." not in span}
)


def name_and_arguments(words: list[str]) -> tuple[str, list[str]]:
    if words[0] == "segtrain":
        return words[1], words[2:]
    place = words.index("-m") + 1
    return words[place].rpartition(".")[2], words[place + 1 :]


def test_there_are_commands_to_paste() -> None:
    assert {name_and_arguments(words_of(line))[0] for line in PASTED} >= set(COMMANDS) - {"networks"}


@pytest.mark.parametrize("line", PASTED)
def test_a_command_is_taken_as_it_stands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
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


@pytest.mark.parametrize("span", sorted({span for span in spans() if "={" in span}))
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
