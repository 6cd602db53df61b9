"""Distributed training of lesion segmentation networks on brain MRI, with results that can be believed.

    import segtrain
    run = segtrain.train("phantom", "train.epochs=2", name="mine")

docs/python.md describes what can be called. Nothing of it is imported before it is asked for.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtrain import errors
    from segtrain.api import Evaluation, Mean, Run, evaluate, load_config, predict, report, train

__version__ = "0.2.0"
DISTRIBUTION = "segtrain-mri"  # the name of what pip installs; `segtrain` on PyPI is a stranger's package

__all__ = ["Evaluation", "Mean", "Run", "errors", "evaluate", "load_config", "predict", "report", "train"]
_MODULES = ("errors", "report", "train")  # the last two are CallableModules


class CallableModule(ModuleType):
    """A module below `segtrain` that can be called: an entry or a room, and the function of the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)

    @property
    def __signature__(self) -> Any:
        return import_module("inspect").signature(self._function)

    @property
    def _function(self) -> Any:
        return getattr(_api(), self.__name__.rpartition(".")[2])


def _api() -> ModuleType:
    """The room, imported without a draw from Python's generator: rich draws when it is imported."""
    random = import_module("random")
    state = random.getstate()
    try:
        return import_module("segtrain.api")
    finally:
        random.setstate(state)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"segtrain.{name}")
    if name in __all__:
        return getattr(_api(), name)
    raise AttributeError(f"module 'segtrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
