"""Widths of texts in figures, and their breaking into lines. Estimates: the reader's browser chooses the font."""

import re
import unicodedata
from collections.abc import Sequence

FONT_UNITS = 13  # of the view box: the size of letters in figures
# Of the size, in DejaVu Sans, which is wide.
SHARES = {"ijlI.,:;|!' ": 0.34, "frt()[]/-": 0.42, "cksvxyz_": 0.6, "+=<>": 0.85, "mwMW@%←→": 1.0}
SHARE_OF_LETTER = {letter: share for letters, share in SHARES.items() for letter in letters}
SHARE_OF_CAPITAL, SHARE_OF_OTHERS = 0.76, 0.64
BREAKS = set(" -_/·→")  # a line may end after these
TIED = re.compile(r"\[[^\]]*\]|n = \d+")  # an interval and a number stay in one line
MINUS = "\N{MINUS SIGN}"  # in place of a hyphen, after which a line may end
TIE = "\N{NO-BREAK SPACE}"


def printable(words: str) -> str:
    """The text with a question mark for each control character: names of folders may hold them, XML may not."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def width(words: str) -> float:
    """Units that the text takes at most."""
    return FONT_UNITS * sum(map(_share, words))


def _share(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    return SHARE_OF_LETTER.get(letter, SHARE_OF_CAPITAL if letter.isupper() else SHARE_OF_OTHERS)


def wrapped(words: str, room: float, most: int = 4) -> Sequence[str]:
    """The text in lines of at most that width; after `most` lines an ellipsis takes the place of the rest."""
    lines = []
    rest = TIED.sub(lambda tied: tied[0].replace(" ", TIE).replace("-", MINUS), words.strip())
    while rest and width(rest) > room:
        end = _end(rest, room)
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    lines += [rest] if rest or not lines else []
    lines = [line.replace(TIE, " ").replace(MINUS, "-") for line in lines]
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], shortened(f"{lines[most - 1]} …", room)]


def _end(words: str, room: float) -> int:
    """Where a line ends: after the last break or before the last East Asian letter that fits; else anywhere."""
    fits = 1
    while width(words[: fits + 1]) <= room:
        fits += 1
    for end in range(fits, fits // 3, -1):
        if words[end - 1] in BREAKS or words[end] == " " or unicodedata.east_asian_width(words[end]) == "W":
            return end
    return fits


def shortened(words: str, room: float) -> str:
    """The text, or its beginning with an ellipsis, in one line of that width."""
    if width(words) <= room:
        return words
    beginning = words.rstrip(" …")
    while beginning and width(f"{beginning}…") > room:
        beginning = beginning[:-1]
    return f"{beginning.rstrip()}…"
