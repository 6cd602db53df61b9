"""References to parts of the user's own: `FILE.py:NAME` or `package.module:NAME`, and the file that each is in.

Nothing is imported here, so a login node can check a config without running its user's code. Imports no torch.
"""

import re
import site
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Self

from segtrain.config.paths import expanded, is_file
from segtrain.errors import ConfigError

_FORM = re.compile(r"(?P<where>.+\.(?:py|ipynb)|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)", re.DOTALL)
SMP_PREFIX = "smp:"  # before the name of an encoder: no reference


@dataclass(frozen=True)
class Reference:
    """The object `name` of a Python file, or of a module that can be imported."""

    where: str
    name: str

    def __str__(self) -> str:
        return f"{self.where}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The reference that a config's value is; None: it is a name."""
        match = None if text.startswith(SMP_PREFIX) else _FORM.fullmatch(text)
        return cls(match["where"], match["name"]) if match else None

    @classmethod
    def of(cls, text: str) -> Self:
        """The reference that a text is known to be."""
        reference = cls.parse(text)
        assert reference is not None, text
        return reference

    @property
    def is_file(self) -> bool:
        return self.where.endswith((".py", ".ipynb"))

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of segtrain's own."""
        return self.where.partition(".")[0] == "segtrain"

    @property
    def short(self) -> str:
        """The same wherever the file lies."""
        return f"{Path(self.where).name}:{self.name}" if self.is_file else str(self)

    def moved(self, file: Path) -> "Reference":
        """The same name in another file."""
        return Reference(str(file), self.name)

    def file(self) -> Path:
        """The absolute path of the Python file. Raises ConfigError: not there, or no Python source."""
        if self.is_file:
            return self._own_file()
        spec = _spec(self.where)
        if spec is None:
            top = self.where.partition(".")[0]
            raise ConfigError(
                f"{self}: there is no module {self.where}; install {top}, or name a file as ./{top}.py:{self.name}"
            )
        if spec.origin is None or not spec.origin.endswith(".py"):
            raise ConfigError(f"{self}: {self.where} has no Python source; name a file as FILE.py:{self.name}")
        return Path(spec.origin).resolve()

    def _own_file(self) -> Path:
        path = expanded(self.where)
        if path.suffix == ".ipynb":
            raise ConfigError(f"{self}: a notebook cannot be imported; write {self.name} into a .py file and name that")
        if not is_file(path):
            raise ConfigError(f"{self}: there is no file {path} in {Path.cwd()}; write its path as FILE.py:NAME")
        return path.resolve()

    def is_installed(self) -> bool:
        """Whether the module belongs to an installed package, which its version identifies, and not to the user."""
        return self.is_built_in or (not self.is_file and _is_installed(self.file()))


def _spec(module: str) -> ModuleSpec | None:
    """A module's spec; its packages are found one in the other without importing them."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    names = module.split(".")
    for place in range(len(names)):
        spec = PathFinder.find_spec(".".join(names[: place + 1]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and place + 1 < len(names):
            return None
    return spec


def _is_installed(file: Path) -> bool:
    folders = {Path(folder).resolve() for folder in (*sysconfig.get_paths().values(), site.getusersitepackages())}
    if any(file.is_relative_to(folder) for folder in folders):
        return True
    # pip install --target, whose folder is on the path by PYTHONPATH; pip leaves a .dist-info beside each package.
    on_path = {Path(folder).resolve() for folder in sys.path if folder}
    return any(folder in on_path and next(folder.glob("*.dist-info"), None) for folder in file.parents)
