"""The pages of docs/reference/ are what the schema, the parsers and the exceptions say."""

from dataclasses import asdict

import pytest

from docs.pages import FOLDER, pages
from segtrain.__main__ import COMMANDS
from segtrain.config import Config, flatten
from segtrain.config.comparison import FROM_DATA, MAY_DIFFER
from segtrain.errors import EXIT_DIVERGED, EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, StopReason

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_what_the_code_says(path: object) -> None:
    committed = {page: page.read_text(encoding="utf-8") for page in PAGES}
    assert committed == PAGES, "stale: python -m docs.pages"


def test_the_page_of_the_config_has_a_line_for_each_key_with_what_a_resume_takes() -> None:
    lines = {line.split(" | ")[0]: line for line in PAGES[FOLDER / "config.md"].splitlines()}
    for key, value in flatten(asdict(Config())):
        line = lines[f"| `{key}`"]
        meaning, on_resume = line.removesuffix(" |").split(" | ")[-2:]
        assert meaning, f"{key}: has no comment in the schema"
        if isinstance(value, bool | int | float):
            assert f"| `{str(value).lower()}` |" in line
        if key.removeprefix("data.") not in FROM_DATA:
            may = key in MAY_DIFFER or key.startswith("deepspeed.")
            assert on_resume == ("may change" if may else "fixed")


def test_a_limit_and_a_unit_of_a_value_are_in_words() -> None:
    page = PAGES[FOLDER / "config.md"]
    for key, values in (
        ("data.image_size", "`256` | whole number (16 or more, multiple of 16)"),
        ("checkpoint.every_min", "`10.0` | number (above 0); minutes"),
        ("evaluate.threshold", "`0.5` | number (above 0, below 1) or mapping"),
    ):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{key}` |"))
        assert f"| {values} |" in row


def test_every_command_exit_code_and_reason_is_there() -> None:
    commands, files = PAGES[FOLDER / "commands.md"], PAGES[FOLDER / "run_directory.md"]
    assert all(f"\n## `segtrain {name}`\n" in commands for name in COMMANDS)
    assert all(f"| {code} |" in files for code in (EXIT_FINISHED, EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_STOPPED))
    assert all(f"| `{reason.name}` |" in files for reason in StopReason)
