"""Commands and blocks of code in the README, in docs/ and in the commands' own help, for the tests that read them."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from segtrain.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
OURS = ("segtrain ", "torchrun ", "python -m segtrain", "python -m jobs")
FENCED = re.compile(
    r"""(?P<mark><!--[ ][^\n]+[ ]-->\n\n?)?  # a comment above it
    ^```(?P<language>\w*)(?:[ ]title="(?P<title>[^"]+)")?\n
    (?P<text>(?:.*\n)*?)```$""",
    re.MULTILINE | re.VERBOSE,
)
# Above a block, or anywhere on a page for all of its blocks of a language.
MARK = re.compile(r"<!-- (?:(?P<language>python|sh|yaml) )?(?P<kind>tested|not tested): (?P<text>.+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None  # the file that the page asks its reader to write
    mark: tuple[str, str] | None  # tested or not tested; by which file, or why

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """The lines of a block of shell, lines that go on joined, without those that are comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    marks = {m["language"]: (m["kind"], m["text"]) for m in MARK.finditer(text) if m["language"]}
    for block in FENCED.finditer(text):
        own = MARK.match(block["mark"] or "")
        mark = (own["kind"], own["text"]) if own else marks.get(block["language"])
        line = text.count("\n", 0, block.start()) + 1
        yield Block(page, line, block["language"], block["text"], block["title"], mark)


def checkout(folder: Path) -> Path:
    """A folder like the checkout, in which a reader has written the files that the pages ask for."""
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    for page in PAGES:
        for block in blocks(page):
            if block.title:
                (folder / block.title).write_text(block.text)
    return folder


def spans(page: Path) -> list[str]:
    """Code within the text of a page, on one line each."""
    outside = FENCED.sub("", page.read_text())
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside)]


def commands() -> list[str]:
    """The commands of all blocks of shell."""
    return [line for page in PAGES for block in blocks(page) if block.language == "sh" for line in block.commands()]


def examples() -> Iterator[str]:
    for module, _ in COMMANDS.values():
        yield from (line.strip() for line in getattr(import_module(module), "EXAMPLES", "").splitlines())


def bare(line: str) -> str:
    """A command without the variables that are set before it."""
    return re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line)


def words_of(line: str) -> list[str]:
    """The words that bash makes of a line: quotes, braces, patterns and comments are as in a terminal."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.split("\0")[:-1]


def name_and_arguments(words: list[str]) -> tuple[str, list[str]]:
    if words[0] == "segtrain":
        return words[1], words[2:]
    place = len(words) - words[::-1].index("-m")  # the last: a launcher of ours comes before the training
    return words[place].rpartition(".")[2], words[place + 1 :]
