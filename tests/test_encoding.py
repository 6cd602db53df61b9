"""Text is UTF-8 in every file that is read or written, whatever the machine's locale is."""

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segtrain.runtime.process import run_command

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(file for room in ("segtrain", "jobs") for file in (ROOT / room).rglob("*.py"))
OPENERS = ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile")
NOT_FILES = ("os", "Image", "rendezvous")  # their `open` opens no text file
TEXT_MODE = set("rwax+t")
LATIN_1 = "en_US.ISO-8859-1"


def without_encoding(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read or write text in the encoding of the locale."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and opens_text(node) and not any(key.arg == "encoding" for key in node.keywords):
            yield node


def opens_text(call: ast.Call) -> bool:
    called = call.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if name in ("read_text", "write_text", "FileHandler"):
        # Of the project's own, and of a distribution's metadata, which are UTF-8: no methods of a path.
        return ast.unparse(called) not in ("files.write_text", "write_text", "distribution.read_text")
    if name not in OPENERS or (isinstance(called, ast.Attribute) and last_name(called.value) in NOT_FILES):
        return False
    is_method_of_path = isinstance(called, ast.Attribute) and name == "open"
    position = 0 if is_method_of_path or name.endswith("File") else 1
    given = [key.value for key in call.keywords if key.arg == "mode"] or call.args[position : position + 1]
    if not given:  # of temporary files the default is binary
        return not name.endswith("File")
    mode = given[0].value if isinstance(given[0], ast.Constant) else None
    return isinstance(mode, str) and set(mode) <= TEXT_MODE


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.mark.quick
def test_no_file_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for file in SOURCES
        for call in without_encoding(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not found, 'give encoding="utf-8":\n' + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("path.read_text()", True),
        ("path.open()", True),
        ("path.open('a')", True),
        ("open(path, 'w')", True),
        ("open(path, mode='w', encoding='utf-8')", False),
        ("path.open('rb')", False),
        ("tempfile.TemporaryFile()", False),
        ("tempfile.TemporaryFile('w+')", True),
        ("os.open(path, flags)", False),
        ("logging.FileHandler(path)", True),
    ],
)
def test_the_search_knows_text_from_bytes(line: str, is_found: bool) -> None:
    assert bool(list(without_encoding(ast.parse(line)))) == is_found


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command does not end for a name that the locale has no letter for, nor for one that is no text at all."""
    latin_1 = io.TextIOWrapper(io.BytesIO(), encoding="iso-8859-1")
    monkeypatch.setattr(sys, "stdout", latin_1)

    def command(argv: object) -> int:
        sys.stdout.write("病人 é \udcff\n")
        return 0

    assert run_command(command, []) == 0
    latin_1.flush()
    assert isinstance(latin_1.buffer, io.BytesIO)
    assert latin_1.buffer.getvalue() == "\\u75c5\\u4eba é \\udcff\n".encode("iso-8859-1")


def test_files_are_utf_8_in_a_latin_1_locale(tmp_path: Path) -> None:
    locales = tmp_path / "locales"
    locales.mkdir()
    try:
        subprocess.run(
            ["localedef", "-i", "en_US", "-f", "ISO-8859-1", locales / LATIN_1], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("needs localedef")
    if not any(locales.iterdir()):
        pytest.skip("needs the sources of locales")
    code = """if True:
        import locale, sys
        from pathlib import Path
        from segtrain.config import load_config, to_yaml
        from segtrain.runtime import files
        folder = Path(sys.argv[1])
        assert locale.getencoding() == "ISO-8859-1", locale.getencoding()
        name = b"\\xe7\\x97\\x85".decode()
        files.write_text(folder / "text", name)
        files.write_json(folder / "json", name)
        (folder / "config.yaml").write_bytes(f"data: {{store: /{name}}}".encode())
        files.write_text(folder / "again.yaml", to_yaml(load_config(folder / "config.yaml")))
        assert load_config(folder / "again.yaml").data.store == "/" + name
    """
    environment = {**os.environ, "LOCPATH": str(locales), "LC_ALL": LATIN_1, "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, check=True)
    assert (tmp_path / "text").read_bytes() == "病".encode()
