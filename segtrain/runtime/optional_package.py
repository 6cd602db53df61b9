"""Packages that only some commands need, imported when they do."""

from importlib import import_module
from types import ModuleType

from segtrain.errors import ConfigError


def package(name: str, needed_by: str) -> ModuleType:
    """The package of that name. Raises ConfigError where it, or one that it needs, is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise ConfigError(f"{needed_by} needs {missing}, which is not installed; pip install {missing}") from error
