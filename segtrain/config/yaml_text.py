"""YAML as configs are written in it: what another reader would take for something else is an error.

PyYAML reads YAML 1.1: 010 is eight, 1:30 is ninety, a day is a date. It lets the last of equal keys win, builds
structures that contain themselves, and a few lines of references to references stand for more than fits into memory.
"""

import re
from typing import Any

import yaml

MAX_NODES = 100_000  # of a document with its references written out
NO_LETTER = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # in no name or path; the rest of the halves stand for bytes
_OCTAL = re.compile(r"[-+]?0[0-7_]+")


def parse_yaml(text: str) -> Any:
    """What the text holds. Raises yaml.YAMLError: not YAML, a key twice, an octal number, nested too deeply."""
    try:
        return yaml.load(text, _Strict)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # PyYAML lets through what its tags do not fit, such as `!!bool maybe`, and numbers of thousands of digits.
        raise yaml.YAMLError(f"has a value that cannot be read: {error}") from error


class _Strict(yaml.SafeLoader):
    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if doubled := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{doubled[0]} is listed twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float | str:
        """A number in plain decimals (or 0x, 0b); times, to YAML in base 60, are text."""
        text = str(node.value)
        if ":" in text:
            return text
        if _OCTAL.fullmatch(text):
            message = f"{text} is a number in base 8 to YAML; write it without the 0, or as text in quotes"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        is_whole = node.tag.endswith(":int")
        number: int | float = self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)
        return number

    def construct_letters(self, node: yaml.ScalarNode) -> str:
        """Text that names and paths can hold; halves of letters stand for bytes of paths that are not UTF-8."""
        text = str(self.construct_scalar(node))
        if odd := NO_LETTER.search(text):
            message = f"{odd[0]!a} is no letter; take it out"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return text

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """The text as it stands: no key is a date."""
        return str(node.value)

    yaml_constructors = yaml.SafeLoader.yaml_constructors | {
        "tag:yaml.org,2002:int": construct_number,
        "tag:yaml.org,2002:float": construct_number,
        "tag:yaml.org,2002:timestamp": construct_text,
        "tag:yaml.org,2002:str": construct_letters,
    }


def _count(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """The nodes below and with this one, references written out. Raises YAMLError: too many, or one within itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise yaml.YAMLError("refers to itself")
    if id(node) not in known:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_count(part, known, above | {id(node)}) for part in parts)
        if known[id(node)] > MAX_NODES:
            raise yaml.YAMLError(f"has more than {MAX_NODES} entries, references written out")
    return known[id(node)]
