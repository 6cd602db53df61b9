"""Each law has tests, and `make quick` runs one of each."""

import ast
import re
from pathlib import Path

from workers import LONG, QUICK_FILES, TOGETHER

FILES = sorted(Path(__file__).parent.rglob("test_*.py"))
LAWS = re.findall(r"^\| (L\d+) \|", (Path(__file__).parents[1] / "docs" / "laws.md").read_text(), re.MULTILINE)


def marks(nodes: list[ast.expr]) -> set[str]:
    """The marks among decorators: the names of laws, and `quick`."""
    found = set()
    for node in nodes:
        text = ast.unparse(node).removeprefix("pytest.mark.")
        found.add(text.removeprefix("law('").removesuffix("')"))
    return found


def quick_tests() -> dict[str, list[bool]]:
    """Of each law: whether each of its tests is quick."""
    found: dict[str, list[bool]] = {}
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                names = marks(node.decorator_list)
                quick = "quick" in names or file.stem in QUICK_FILES
                for law in names & set(LAWS):
                    found.setdefault(law, []).append(quick)
    return found


def test_each_law_has_tests_of_which_one_is_quick() -> None:
    assert {law: any(quick) for law, quick in quick_tests().items()} == dict.fromkeys(LAWS, True)


def test_the_files_that_the_workers_know_are_there() -> None:
    assert QUICK_FILES | LONG | TOGETHER.keys() <= {file.stem for file in FILES}
