"""All texts of a report, in both languages; a test holds the keys together."""

from collections.abc import Callable, Sequence
from typing import Literal

from segtrain.report.texts_en import EN
from segtrain.report.texts_zh import ZH

Language = Literal["en", "zh"]
Say = Callable[..., str]

TEXTS: dict[Language, dict[str, str]] = {"en": EN, "zh": ZH}


def say_in(language: Language) -> Say:
    """A function that gives the text of a key, with the values of its fields filled in."""

    def say(key: str, **values: object) -> str:
        return TEXTS[language][key].format(**values)

    return say


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first of these names, for a sentence in either language."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
