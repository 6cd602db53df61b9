"""The files of a part of the user's own: its file and those that it imports from beside it, with their hashes.

The imports are read from the source, so nothing is run. Imports no torch.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segtrain.config.reference import Reference
from segtrain.config.signature import parse
from segtrain.errors import ConfigError

# The folder that holds one of these is where a project begins: imports are not looked for above it.
MARK = ".part"  # in a copy of a part's files
PROJECT_MARKS = (MARK, ".git", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
MOST_LEVELS = 4  # folders above the file that are looked into where no mark is found
MOST_FILES = 500
FOREIGN = {"tensorflow": "TensorFlow", "keras": "Keras", "jax": "JAX", "flax": "Flax", "paddle": "PaddlePaddle"}


@dataclass(frozen=True)
class OwnCode:
    """The files of a part. `root` is the folder that holds them all; `file` is the part's own and the first."""

    file: Path
    root: Path
    files: tuple[Path, ...]
    package_root: Path  # of relative imports: the folder that is the topmost package
    import_roots: tuple[Path, ...]  # folders in which imports without dots are looked for, the nearest first
    siblings: frozenset[str]  # top-level names that such imports find there

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file, by its path below `root`; the part's own file first."""
        digest = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files}
        return {file.relative_to(self.root).as_posix(): digest[file] for file in self.files}


def own_code(reference: Reference) -> OwnCode | None:
    """The files of a part of the user's own; None for one of an installed package, which its version identifies.

    Raises ConfigError: a file that is missing or no Python, or that is written for another framework.
    """
    if reference.is_installed():
        return None
    file = reference.file()
    roots = tuple(_import_roots(file)) if reference.is_file else (_top_folder(reference, file),)
    files: list[Path] = []
    siblings: set[str] = set()
    levels = 0
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path in files:
            continue
        files.append(path)
        if len(files) > MOST_FILES:
            raise ConfigError(f"{reference}: imports more than {MOST_FILES} files from beside it; name a smaller part")
        for level, module, names in _imports(path):
            if level:
                levels = max(levels, level + len(file.parent.parts) - len(path.parent.parts))
                waiting += _files_of(path.parents[level - 1], module, names)
            elif more := _beside(roots, module, names):
                siblings.add(module.partition(".")[0])
                waiting += more
            else:
                _refuse_foreign(reference, path, module)
    package_root = file.parents[max(levels, 1) - 1]
    folders = [path.parent for path in files] + ([package_root] if levels else [])
    root = folders[0]
    while not all(folder.is_relative_to(root) for folder in folders):
        root = root.parent
    return OwnCode(file, root, tuple(files), package_root, roots, frozenset(siblings))


def _top_folder(reference: Reference, file: Path) -> Path:
    """The folder on Python's path that the module of a reference is found in."""
    return file.parents[reference.where.count(".") + (file.name == "__init__.py")]


def _import_roots(file: Path) -> Iterator[Path]:
    """The file's folder, then those above it up to the project's."""
    for folder in list(file.parents)[:MOST_LEVELS]:
        if folder in (Path.home(), Path(folder.anchor)):
            if folder == file.parent:
                yield folder
            return
        yield folder
        if any((folder / mark).exists() for mark in PROJECT_MARKS):
            return


def _imports(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Level of dots, module and imported names of every import, wherever it stands in the file."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def _beside(roots: tuple[Path, ...], module: str, names: list[str]) -> list[Path]:
    """The files that an import without dots finds in the first of the folders that has its top-level name."""
    top = module.partition(".")[0]
    for root in roots:
        if (root / f"{top}.py").is_file() or (root / top / "__init__.py").is_file() or _is_namespace(root / top):
            return _files_of(root, module, names)
    return []


def _is_namespace(folder: Path) -> bool:
    """A package without __init__.py."""
    return folder.is_dir() and any(folder.glob("*.py"))


def _files_of(folder: Path, module: str, names: list[str]) -> list[Path]:
    """The files that are run when `module` below a folder is imported, with those of `names` that are modules."""
    files = []
    place = folder
    for part in filter(None, module.split(".")):
        place = place / part
        files += [place.with_name(f"{part}.py"), place / "__init__.py"]
    files += [place / f"{name}.py" for name in names] + [place / name / "__init__.py" for name in names]
    return [file.resolve() for file in files if file.is_file()]


def _refuse_foreign(reference: Reference, file: Path, module: str) -> None:
    top = module.partition(".")[0]
    if top in FOREIGN:
        raise ConfigError(
            f"{reference}: {file.name} imports {top}: this is a part for {FOREIGN[top]}; name one that is written for "
            "PyTorch"
        )
