"""The source of a class or function, with that of all it uses, as the text of one file."""

import ast
import builtins
import inspect
import linecache
import symtable
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

OPENING = '"""A part as it was defined in Python, with what it uses; written by segtrain."""'


class NoSource(Exception):
    """Why an object's source cannot be written down: a clause without subject, to stand after its name."""


class Source:
    """The text of a file that defines objects and what they use, in the order of need."""

    def __init__(self, is_installed: Callable[[ModuleType], bool]) -> None:
        self._is_installed = is_installed
        self._imports: list[str] = []
        self._definitions: list[str] = []
        self._known: dict[str, Any] = {}
        self.local_modules: list[ModuleType] = []  # the user's, which have to lie beside the file

    def text(self) -> str:
        return "\n\n\n".join(["\n".join([OPENING, "", *self._imports]), *self._definitions]) + "\n"

    def add(self, thing: Any) -> None:
        """Add a class or function. Raises NoSource."""
        text, namespace = _text_of(thing), _namespace(thing)
        self._known[thing.__name__] = thing
        for name in sorted(_names_used(text)):
            if name in namespace and not _is_builtin(name, namespace[name]):
                self._need(name, namespace[name])
        for module in _submodules_used(text, namespace):
            self._import(f"import {module.__name__}", module)
        self._definitions.append(text)

    def _need(self, name: str, value: Any) -> None:
        if name in self._known:
            if self._known[name] is not value:
                raise NoSource(f"uses two things named {name}")
            return
        if isinstance(value, ModuleType):
            self._known[name] = value
            self._import(f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}"), value)
        elif module := _module_of(value):
            self._known[name] = value
            own = value.__name__
            self._import(f"from {module.__name__} import {own}" + ("" if own == name else f" as {name}"), module)
        elif isinstance(value, type | FunctionType):
            if value.__name__ != name:
                raise NoSource(f"uses {name}, which is another name of {value.__name__}")
            self.add(value)
        elif _is_literal(value):
            self._known[name] = value
            self._definitions.append(f"{name} = {value!r}")
        else:
            raise NoSource(f"uses {name}, a {type(value).__name__} that cannot be written down")

    def _import(self, line: str, module: ModuleType) -> None:
        if line in self._imports:
            return
        self._imports.append(line)
        if not self._is_installed(module):
            self.local_modules.append(module)


def _text_of(thing: Any) -> str:
    """The statement that defines it, with its decorators."""
    if not isinstance(thing, type | FunctionType):
        raise NoSource(f"is an object, a {type(thing).__name__}, and no class or function")
    if thing.__name__ == "<lambda>":
        raise NoSource("is a lambda")
    if "." in thing.__qualname__:
        raise NoSource("is defined inside of a function or class")
    code = next(_codes(thing), None)
    lines = linecache.getlines(code.co_filename) if code else []
    try:
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile("".join(lines), "source", "exec", flags)
    except SyntaxError as error:
        raise NoSource("has no source that can be read") from error
    assert isinstance(tree, ast.Module)
    kind = ast.ClassDef if isinstance(thing, type) else ast.FunctionDef
    for node in reversed([one for one in ast.walk(tree) if isinstance(one, kind) and one.name == thing.__name__]):
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        if code and first <= code.co_firstlineno <= (node.end_lineno or first):
            return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip()
    raise NoSource("has no source that can be found")


def _codes(thing: Any) -> Iterator[Any]:
    """The code objects of a function, or of the methods that a class defines."""
    if isinstance(thing, FunctionType):
        yield inspect.unwrap(thing).__code__
        return
    for value in vars(thing).values():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if isinstance(function, FunctionType) and function.__module__ == thing.__module__:
            code = inspect.unwrap(function).__code__
            if linecache.getlines(code.co_filename):  # none of what a decorator has made, as dataclass does
                yield code


def _namespace(thing: Any) -> dict[str, Any]:
    if isinstance(thing, FunctionType):
        names: dict[str, Any] = inspect.unwrap(thing).__globals__
        return names
    return vars(sys.modules[thing.__module__])


def _names_used(text: str) -> set[str]:
    """The global names that a statement refers to."""
    table = symtable.symtable(text, "source", "exec")
    names = {one.get_name() for one in table.get_symbols() if one.is_referenced() and not one.is_assigned()}
    waiting = list(table.get_children())
    while waiting:
        inner = waiting.pop()
        names |= {one.get_name() for one in inner.get_symbols() if one.is_global() and one.is_referenced()}
        waiting += inner.get_children()
    return {name for name in names if not name.startswith("__")}


def _submodules_used(text: str, namespace: dict[str, Any]) -> Iterator[ModuleType]:
    """The submodules that a statement reaches through their package, which importing the package may not import."""
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        module = namespace.get(node.id) if names and isinstance(node, ast.Name) else None
        while names and isinstance(module, ModuleType):
            inner = vars(module).get(names.pop())
            if isinstance(inner, ModuleType) and inner.__name__.startswith(f"{module.__name__}."):
                yield inner
            module = inner


def _is_builtin(name: str, value: Any) -> bool:
    """Whether a global is Python's builtin of that name, maybe wrapped, as IPython's `open` is."""
    return hasattr(builtins, name) and inspect.unwrap(value) is getattr(builtins, name)


def _module_of(value: Any) -> ModuleType | None:
    """The module that a name can be imported from; None of what a script or a notebook defines."""
    name = getattr(value, "__name__", None)
    if not isinstance(name, str):
        return None
    for module in (sys.modules.get(getattr(value, "__module__", None) or ""), typing):
        if module is not None and can_be_imported(module) and vars(module).get(name) is value:
            return module
    return None


def can_be_imported(module: ModuleType) -> bool:
    """Whether another process finds a module by its name: not the script or the notebook that runs."""
    return module.__name__ != "__main__" and module.__spec__ is not None


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
