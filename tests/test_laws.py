"""Each law has tests, and `make quick` runs one of each."""

import ast
import re
import subprocess
from pathlib import Path

from workers import LONG, QUICK_FILES, TOGETHER

ROOT = Path(__file__).resolve().parents[1]
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


def test_make_chaos_runs_each_file_that_has_a_long_form() -> None:
    """Else nothing would ever try the parameters that `make test` leaves out."""
    files = [file for file in FILES if any(map(imports_long_form, ast.parse(file.read_text()).body))]
    printed = subprocess.run(["make", "-n", "chaos"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = printed.split()
    assert len(files) > 5
    for file in files:
        path = file.relative_to(ROOT)
        assert str(path) in words or (path.parent.name == "chaos" and "tests/chaos" in words)


def imports_long_form(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "long_form"


def test_the_files_that_the_workers_know_are_there() -> None:
    assert QUICK_FILES | LONG | TOGETHER.keys() <= {file.stem for file in FILES}
