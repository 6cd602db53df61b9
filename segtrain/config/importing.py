"""Imports the code of a part of the user's own as it stands: it runs here, and only here.

Two parts may each have a `utils` beside them: what an import finds beside a part is that part's alone.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from segtrain.config.own_code import OwnCode, own_code
from segtrain.config.reference import Reference
from segtrain.config.signature import parse
from segtrain.errors import ConfigError

PREFIX = "segtrain_own_"
# Calls at a module's top level that are no work.
HARMLESS = ("warnings.", "logging.", "sys.path.", "os.environ", "torch.set_", "matplotlib.use")
_modules: dict[tuple[Path, str], ModuleType] = {}  # by file and hash of all its files


def load(reference: Reference) -> Any:
    """The object that a reference names. Its module is run once in a process.

    Raises ConfigError: a file that does more than define things, a missing package, no such name.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version
    code = None if reference.is_built_in else own_code(reference)
    module = _installed(reference) if code is None else _own(reference, code)
    try:
        return getattr(module, reference.name)
    except AttributeError as error:
        raise ConfigError(f"{reference}: {reference.where} has nothing named {reference.name}") from error


def _installed(reference: Reference) -> ModuleType:
    with explained(reference):
        return importlib.import_module(reference.where)


def _own(reference: Reference, code: OwnCode) -> ModuleType:
    digest = hashlib.sha256(repr(code.hashes()).encode()).hexdigest()
    key = (code.file, digest)
    if key not in _modules:
        for file in code.files:
            _refuse_work(reference, file)
        with explained(reference), _siblings_of(code):
            _modules[key] = _run(code, f"{PREFIX}{digest[:12]}")
    return _modules[key]


def _refuse_work(reference: Reference, file: Path) -> None:
    """Raise ConfigError where importing the file would do work: a script, a notebook's cells."""
    for node in _run_at_import(parse(file).body):
        if isinstance(node, ast.For | ast.While | ast.With):
            doing = {ast.For: "a for loop", ast.While: "a while loop", ast.With: "a with block"}[type(node)]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = ast.unparse(node.value.func)
            if call.startswith(HARMLESS) or call == "print":
                continue
            doing = f"a call of {call}"
        else:
            continue
        raise ConfigError(
            f"{reference}: {file.name}, line {node.lineno}: importing it would run {doing}; put that below "
            'if __name__ == "__main__":, or the part into a file of its own'
        )


def _run_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If) and "__name__" not in ast.unparse(node.test):
            yield from _run_at_import([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _run_at_import([*node.body, *node.orelse, *node.finalbody])


@contextlib.contextmanager
def explained(
    reference: Reference, failure: str = "cannot be imported", remedy: str = "try importing it by hand"
) -> Iterator[None]:
    """A context for running foreign code: its output goes nowhere, its failures become a ConfigError of one line."""
    try:
        with quiet():
            yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{reference}: needs {error.name}, which is not installed; pip install {str(error.name).partition('.')[0]}"
        ) from error
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever code of the user's raises is the user's to mend
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{reference}: {failure} ({type(error).__name__}: {text}){_place(error)}; {remedy}"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context for running foreign code, of which neither standard output nor warnings are shown."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _place(error: BaseException) -> str:
    """The innermost line of the traceback that is not Python's own."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith("<") and Path(file) != Path(__file__):
            place = f" in {Path(file).name}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _run(code: OwnCode, package: str) -> ModuleType:
    """The part's module, as a module of a package of its own, so that relative imports find their files."""
    parts = code.file.relative_to(code.package_root).with_suffix("").parts
    root = ModuleType(package)
    root.__path__ = [str(code.package_root)]
    sys.modules[package] = root
    for place in range(1, len(parts)):
        importlib.import_module(".".join((package, *parts[:place])))
    # A file's name may be no Python name: unet-2d.py, resunet++.py.
    name = ".".join((package, *parts))
    spec = importlib.util.spec_from_file_location(name, code.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for key in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
            del sys.modules[key]
        raise
    return module


@contextlib.contextmanager
def _siblings_of(code: OwnCode) -> Iterator[None]:
    """A context in which imports without dots find what lies beside the part first; after it all is as before."""

    def theirs() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in code.siblings]

    before = {name: sys.modules.pop(name) for name in theirs()}
    path, writes_bytecode = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # nothing is written beside the user's files, or into a run
    sys.path[:0] = [str(root) for root in code.import_roots]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        sys.dont_write_bytecode = writes_bytecode
        for name in theirs():
            del sys.modules[name]
        sys.modules.update(before)
