"""Parts given as classes and functions: their source is written into files, which a run then copies and hashes.

An object of a module with a file is that file's. What a notebook's cell or a script defines is written into a file of
its own, with the imports, constants, functions and classes that it uses. What has no source is held by this process.
"""

import functools
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from segtrain.api.sources import NoSource, Source, can_be_imported
from segtrain.config import PART, Reference
from segtrain.config.own_code import MARK, own_code
from segtrain.config.own_parts import KEYS
from segtrain.errors import ConfigError

log = logging.getLogger(__name__)

# A name, a name with options, or an object: a class, a function, a partial of one.
Part = str | Mapping[str, Any] | Callable[..., Any] | None
ARGUMENTS = {"model": "network", "optim": "optimizer"}  # of `segtrain.train`, where they are not called like the key
HELD_NAME = "part"
HELD = '''"""Stands for an object of the process that trained, whose source is not on record."""

from segtrain.api.objects import held

{name} = held({key!r}, {what!r}, {why!r})
'''
REMEDY = "define it by def or class in a notebook's cell or in a .py file"
_held: dict[str, Any] = {}


@contextmanager
def on_record(parts: Mapping[str, Part], nproc: int) -> Iterator[dict[str, Any]]:
    """The config's keys that choose the parts, whose files are there within the context.

    Raises ConfigError for an object without source that other processes would need.
    """
    with tempfile.TemporaryDirectory(prefix="segtrain-") as name:
        values: dict[str, Any] = {}
        for kind, part in parts.items():
            if part is not None:
                values |= _chosen(kind, part, Path(name) / kind, nproc)
        yield values


def _chosen(kind: str, part: Any, folder: Path, nproc: int) -> dict[str, Any]:
    key = KEYS.get(kind, kind)
    if isinstance(part, str | Mapping):
        return {key: part}
    options: dict[str, Any] = {}
    if isinstance(part, functools.partial) and not part.args:
        part, options = part.func, dict(part.keywords)
    argument = ARGUMENTS.get(kind, kind)
    try:
        reference = _in_module(part) or _written(part, folder, f"part_{kind}.py")
    except NoSource as error:
        what = f"{argument}={getattr(part, '__name__', type(part).__name__)}"
        if nproc > 1 or kind == "source":
            processes = f"nproc={nproc}" if nproc > 1 else "those that read the data"
            raise ConfigError(f"{what}: {error}, and other processes ({processes}) need it; {REMEDY}") from error
        log.warning(
            "%s: %s, so it is not on record: the run trains, but in no other process can it be resumed; %s",
            what,
            error,
            REMEDY,
        )
        reference = _hold(part, what, str(error), folder)
        if kind == "augment":
            return {key: {PART: str(reference), **options}, "data.augment_workers": 0}  # they are other processes
    return {key: {PART: str(reference), **options} if options else str(reference)}


def _in_module(part: Any) -> Reference | None:
    """The reference to an object that can be imported; None of one that a script or a notebook defines."""
    module = sys.modules.get(getattr(part, "__module__", None) or "")
    name = getattr(part, "__qualname__", "")
    file = getattr(module, "__file__", None) or ""
    if module is None or not can_be_imported(module) or vars(module).get(name) is not part:
        return None
    if not file.endswith(".py"):  # written in C
        return None
    reference = Reference(module.__name__, name)
    return reference if is_installed(module) else Reference(str(Path(file).resolve()), name)


def is_installed(module: ModuleType) -> bool:
    """Whether a module is Python's or an installed package's, and not a file of the user's."""
    try:
        return Reference(module.__name__.partition(".")[0], HELD_NAME).is_installed()
    except ConfigError:  # no source of Python's, or none that is found by name
        return not str(getattr(module, "__file__", None) or "").endswith(".py")


def _written(part: Any, folder: Path, name: str) -> Reference:
    """The reference to a file with the source of an object and all that it uses. Raises NoSource."""
    source = Source(is_installed)
    source.add(part)
    folder.mkdir(parents=True)
    (folder / MARK).touch()  # imports are not looked for above
    (folder / name).write_text(source.text(), encoding="utf-8")
    for module in source.local_modules:
        _copy(module, folder)
    return Reference(str(folder / name), part.__name__)


def _copy(module: ModuleType, folder: Path) -> None:
    """Copy a module of the user's with the files that it imports from beside it, or the package that it is of."""
    top = sys.modules[module.__name__.partition(".")[0]]
    if places := list(getattr(top, "__path__", ())):  # of a package; one without __init__.py may have several
        for place in places:
            # Two names may be of one package.
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(place, folder / top.__name__, ignore=ignored, dirs_exist_ok=True)
        return
    file = Path(str(top.__file__))
    shutil.copy(file, folder / file.name)
    code = own_code(Reference(str(file), HELD_NAME))
    if code is None:
        return
    for other in code.files[1:]:
        # The copies lie to one folder as the originals to the folders in which Python looks.
        root = next((root for root in code.import_roots if other.is_relative_to(root)), other.parent)
        copy = folder / other.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, copy)


def _hold(part: Any, what: str, why: str, folder: Path) -> Reference:
    """The reference to a file that asks this process for the object."""
    key = f"{os.getpid()}-{id(part)}"
    _held[key] = part
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    file = folder / "not_on_record.py"
    file.write_text(HELD.format(name=HELD_NAME, key=key, what=what, why=why), encoding="utf-8")
    return Reference(str(file), HELD_NAME)


def held(key: str, what: str, why: str) -> Any:
    """The object that this process holds. Raises ConfigError in another process."""
    if key not in _held:
        raise ConfigError(
            f"{what}: {why}, so it is not on record, and only the process that trained had it; {REMEDY}, and train "
            "that as another run"
        )
    return _held[key]
