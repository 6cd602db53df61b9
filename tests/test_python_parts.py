"""Parts of a notebook's cell go on record with all that they use: modules of the user's, names of builtins."""

import linecache
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import segtrain
from segtrain.api.objects import on_record

HEAD = "def loss(logits, target):\n    return "


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """What a cell has defined, in a process that finds the modules of `tmp_path`."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def run(text: str) -> ModuleType:
        module = ModuleType("cell")
        sys.modules["cell"] = module
        linecache.cache["<cell>"] = (len(text), None, text.splitlines(keepends=True), "<cell>")
        exec(compile(text, "<cell>", "exec"), vars(module))
        return module

    yield run
    linecache.cache.pop("<cell>", None)
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        places = (getattr(module, "__file__", None), *getattr(module, "__path__", ()))
        if name == "cell" or any(str(place).startswith(str(tmp_path)) for place in places):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files_on_record(module: ModuleType) -> set[str]:
    """The files that a run with the cell's loss would copy."""
    with on_record({"loss": module.loss}, 2) as values:
        return {name.removeprefix("loss/") for name in segtrain.load_config("phantom", **values).code}


@pytest.mark.law("L13")
@pytest.mark.parametrize("opening", ["__init__.py", "other.py"])
def test_two_names_of_one_package_with_or_without_an_init_file(
    tmp_path: Path, cell: Callable[[str], ModuleType], opening: str
) -> None:
    functions = "def first(x): return x\n\n\ndef second(x): return x\n"
    write(tmp_path, {f"fixed/{opening}": "", "fixed/sums.py": functions})
    module = cell(f"from fixed.sums import first, second\n{HEAD}first(logits) + second(target)\n")
    assert {"part_loss.py", "fixed/sums.py"} <= files_on_record(module)


@pytest.mark.law("L13")
def test_the_modules_that_a_module_imports(tmp_path: Path, cell: Callable[[str], ModuleType]) -> None:
    write(
        tmp_path,
        {
            "helper1.py": "from helper2 import squared\nfrom helpers.sums import total\n"
            "\n\ndef error(x): return total(squared(x))\n",
            "helper2.py": "def squared(x): return x * x\n",
            "helpers/sums.py": "def total(x): return x.sum()\n",
        },
    )
    files = files_on_record(cell(f"from helper1 import error\n{HEAD}error(logits - target)\n"))
    assert files == {"part_loss.py", "helper1.py", "helper2.py", "helpers/sums.py"}


@pytest.mark.law("L13")
@pytest.mark.parametrize(("line", "called"), [("import pack.inner.sums", "pack"), ("import pack as p", "p")])
def test_a_submodule_that_is_reached_through_its_package(
    tmp_path: Path, cell: Callable[[str], ModuleType], line: str, called: str
) -> None:
    write(
        tmp_path,
        {"pack/__init__.py": "", "pack/inner/__init__.py": "", "pack/inner/sums.py": "def first(x): return x\n"},
    )
    module = cell(f"import pack.inner.sums\n{line}\n{HEAD}{called}.inner.sums.first(logits)\n")
    with on_record({"loss": module.loss}, 2) as values:
        file = Path(values["loss"].rpartition(":")[0])
        program = f"import runpy; print(runpy.run_path({str(file)!r})['loss'](7, 0))"
        alone = subprocess.run(
            [sys.executable, "-c", program], cwd=file.parent, text=True, capture_output=True, check=False
        )
    assert alone.stdout == "7\n", alone.stderr


@pytest.mark.law("L13")
def test_a_global_with_the_name_of_a_builtin(cell: Callable[[str], ModuleType]) -> None:
    lines = "import functools\nfrom numpy import abs\nmax = 3\nmin = None\n"
    lines += "@functools.wraps(open)\ndef open(file): pass\n\n"  # as IPython has it
    module = cell(f"{lines}{HEAD}abs(logits) * max * len(target), min, open\n")
    with on_record({"loss": module.loss}, 2) as values:
        written = Path(values["loss"].rpartition(":")[0]).read_text().splitlines()
    assert {"from numpy import absolute as abs", "max = 3", "min = None"} < set(written)
    assert "def open(file): pass" not in written
