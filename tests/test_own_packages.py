"""Which packages are the user's own: not those that pip installed, wherever it put them."""

from pathlib import Path

import pytest

from segtrain.config import Reference
from segtrain.config.importing import load
from segtrain.config.own_code import own_code


def package(folder: Path, name: str) -> None:
    """A package with a module of its own name, which it imports by its full name."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"from {name}.{name} import thing\n")
    (folder / name / f"{name}.py").write_text(
        "import helper_of_others\n\n\ndef thing(): return helper_of_others.WORD\n"
    )
    (folder / "helper_of_others.py").write_text("WORD = 'there'\n")


@pytest.mark.parametrize("by_pip", [False, True])
def test_a_package_on_the_path_is_imported_and_is_one_s_own_unless_pip_put_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_pip: bool
) -> None:
    name = f"odd_name_{by_pip}".lower()
    package(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    if by_pip:
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
    reference = Reference.of(f"{name}:thing")
    code = own_code(reference)
    assert (code is None) == by_pip
    if code is not None:
        files = {file.relative_to(tmp_path).as_posix() for file in code.files}
        assert files == {f"{name}/__init__.py", f"{name}/{name}.py", "helper_of_others.py"}
    assert load(reference)() == "there"
