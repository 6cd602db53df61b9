"""The signature of a part, read from its source: the options that a config may give it.

The source is parsed and not run: a config is checked in milliseconds, on machines without torch. Imports no torch.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from segtrain.config.reference import Reference
from segtrain.config.tree import nearest
from segtrain.errors import ConfigError

_NUMBER = (int, float)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "float": (_NUMBER, "a number"),
    "int": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
}
_PAIR = "tuple[float, float]"


class _Absent:
    """Stands for a default that is not there, or that is no literal."""


NO_DEFAULT = _Absent()
UNKNOWN = _Absent()


@dataclass(frozen=True)
class Parameter:
    """One parameter; `default` is its literal, NO_DEFAULT or UNKNOWN, `annotation` its source."""

    name: str
    default: Any = NO_DEFAULT
    annotation: str = ""
    keyword_only: bool = False

    def takes(self, value: Any) -> str | None:
        """What it takes, where the value is something else; None: the value may be right."""
        kind = self.annotation.split("|")[0].strip()
        if kind == _PAIR:
            return None if _is_pair(value) else "two numbers, [smallest, largest]"
        if value is None or kind not in _TYPES:
            # Without an annotation an int is often written for a number: alpha=1.
            by_default = {bool: "bool", int: "float", float: "float", str: "str"}
            kind = by_default.get(type(self.default), "")
        if value is None or kind not in _TYPES:
            return None
        types, words = _TYPES[kind]
        fits = isinstance(value, types) and isinstance(value, bool) == (types == (bool,))
        return None if fits else words


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(number, _NUMBER) and not isinstance(number, bool) for number in value)
    )


@dataclass(frozen=True)
class Signature:
    """The parameters of a function, or of a class's constructor without self."""

    parameters: tuple[Parameter, ...]
    is_class: bool
    takes_any: bool = False  # **kwargs

    def names(self) -> list[str]:
        """The parameters' names."""
        return [parameter.name for parameter in self.parameters]

    def check(self, whose: str, options: Mapping[str, Any], keyword_only: bool = False) -> None:
        """Raise ValueError for an option that is no parameter, or of another type.

        `keyword_only`: the parameters that are keyword-only are options, the others are given by the program.
        """
        known = {p.name: p for p in self.parameters if p.keyword_only or not keyword_only}
        for name, value in options.items():
            if name not in known and self.takes_any:
                continue
            if name not in known:
                near = nearest(name, known)
                hint = f" (did you mean {near}?)" if near else ""
                there_are = f"there are {', '.join(known)}" if known else "it has none"
                raise ValueError(f"{whose} has no option {name}{hint}; {there_are}")
            if words := known[name].takes(value):
                raise ValueError(f"{whose}: {name}={value!r}: this option takes {words}")


def signature_of(reference: Reference) -> Signature:
    """The signature of a function or class, or of a class that it inherits its constructor from in the same file.

    Of an object that the file imports or computes, a signature that takes anything: it is known once it is imported.
    Raises ConfigError: no such file or name, no Python.
    """
    file = reference.file()
    tree = parse(file)
    node = _defined(tree, reference.name)
    if node is None:
        if reference.name in _assigned(tree):
            return Signature((), is_class=False, takes_any=True)
        names = [n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        near = nearest(reference.name, names)
        hint = f"; did you mean {near}?" if near else ""
        there_are = f"; it has {', '.join(names[:8])}" if names and not near else ""
        raise ConfigError(f"{reference}: {file.name} has nothing named {reference.name}{hint}{there_are}")
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, is_class=False, skip=0)
    return _of_class(tree, node)


def parse(file: Path) -> ast.Module:
    """The syntax tree of a Python file. Raises ConfigError: cannot be read, no Python."""
    try:
        stat = file.stat()
        return _parse(file, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); name a readable file") from error
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes, another encoding
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(f"{file}{line}: not Python ({message}); try python {file.name}") from error


@lru_cache(maxsize=64)
def _parse(file: Path, _mtime_ns: int, _size: int) -> ast.Module:
    return ast.parse(file.read_bytes(), filename=str(file))


def _defined(tree: ast.Module, name: str) -> ast.FunctionDef | ast.ClassDef | None:
    nodes = [n for n in _statements(tree.body) if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
    return nodes[-1] if nodes else None


def _assigned(tree: ast.Module) -> set[str]:
    """Names that statements of the module bind in other ways than by def and class."""
    names: set[str] = set()
    for node in _statements(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    return names


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those under `if` and `try` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            handlers = [s for handler in getattr(node, "handlers", []) for s in handler.body]
            yield from _statements([*node.body, *handlers, *node.orelse])


def _of_class(tree: ast.Module, node: ast.ClassDef) -> Signature:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _of_function(statement, is_class=True, skip=1)
    for base in node.bases:
        parent = _defined(tree, base.id) if isinstance(base, ast.Name) else None
        if isinstance(parent, ast.ClassDef) and parent is not node:
            return _of_class(tree, parent)
    # Its constructor is another file's; nn.Module's takes nothing, but a dataclass's or a library's may.
    return Signature((), is_class=True, takes_any=True)


def _of_function(node: ast.FunctionDef, is_class: bool, skip: int) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = list(zip(positional, [*defaults, *arguments.defaults], strict=True))[skip:]
    parameters = [_parameter(argument, default) for argument, default in pairs]
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(_parameter(argument, default, keyword_only=True))
    return Signature(tuple(parameters), is_class, takes_any=arguments.kwarg is not None)


def _parameter(argument: ast.arg, default: ast.expr | None, keyword_only: bool = False) -> Parameter:
    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
    if default is None:
        return Parameter(argument.arg, NO_DEFAULT, annotation, keyword_only)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        value = UNKNOWN
    return Parameter(argument.arg, value, annotation, keyword_only)
