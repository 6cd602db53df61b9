"""Every block of code in the README and docs/ is run or read by a test, or is marked with why not.

Chinese pages have the commands and code of the English ones.
"""

import argparse
import re
import tomllib
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from documents import FENCED, OURS, PAGES, ROOT, Block, bare, blocks, checkout, spans, words_of

from docs.hooks import on_page_content, on_post_page
from docs.pages import FOLDER, parser_of
from jobs.trials import Searching
from segtrain.__main__ import COMMANDS
from segtrain.config import load_config
from segtrain.run.ablation import expand

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = r"(?:\$ |segtrain \w+(?: |$)|torchrun |python |make |pip |sbatch |ssh |scp |docker |\. )"
BLOCKS = [block for page in PAGES if FOLDER not in page.parents for block in blocks(page)]  # FOLDER: made from the code
DATA = ["data.root=/data/kaggle_3m"]
CHINESE = [page for page in PAGES if page.name.endswith(".zh.md")]
# What pages write `mine.py` or `nets.py` for: a part of the reader's.
STAND_INS = {
    "mine.py": "def my_loss(logits, mask, gamma: float = 1.0): ...\n",
    "nets.py": "class MyUNet:\n    def __init__(self, in_channels=3, dropout=0.0): ...\n",
}


def of(language: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language == language]


@pytest.mark.parametrize("block", of("sh"))
def test_each_line_of_shell_is_one_that_is_there(block: Block) -> None:
    """Those of segtrain are parsed by test_documents.py."""
    kind, reason = block.mark or ("", "")
    problems = {line: problem for line in block.commands() if (problem := problem_of(line))}
    if kind == "not tested":
        assert problems, "the mark can go"
        assert reason
    else:
        assert not problems


def problem_of(line: str) -> str | None:
    """Why a line of shell is not one that works here; None: it is."""
    line = bare(line)
    if line.startswith(OURS) or line == ". .venv/bin/activate" or re.match(r"\. \.venv/bin/activate +#", line):
        return None
    if line.split()[0] not in ("make", "pip", "pytest", "python"):
        return "no test knows what it is"
    words = words_of(line)
    if words[0] == "make":
        return None if set(words[1:]) <= TARGETS and len(words) == 2 else "no target of the Makefile"
    if words[:2] == ["pip", "install"]:
        return problem_of_pip(words[2:])
    if words[0] == "pytest":
        return None if all((ROOT / word).exists() for word in words if "/" in word) else "no such tests"
    if words[:2] == ["python", "-m"] and words[2].startswith(("benchmarks", "docs.", "pytest")):
        return problem_of_module(words[2], words[3:])
    return "no test knows what it is"


def problem_of_pip(words: list[str]) -> str | None:
    extras = re.fullmatch(r"(?:\.|segtrain-mri)\[([\w,]+)\]", words[-1])
    if extras:
        return None if set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys() else "no such extra"
    needed = {re.split(r"[>\[]", one)[0] for extra in PROJECT["optional-dependencies"].values() for one in extra}
    return None if set(words) <= needed else "of no extra"


class Parsed(Exception):
    """The arguments of a module, parsed; nothing is run."""


def problem_of_module(name: str, arguments: list[str]) -> str | None:
    if name == "pytest":
        return problem_of(" ".join(["pytest", *arguments]))
    file = ROOT / name.replace(".", "/")
    if not (file.with_suffix(".py").exists() or (file / "__main__.py").exists()):
        return "no such module"
    if not arguments:
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args, arguments))
        module = import_module(f"{name}.__main__" if (file / "__main__.py").exists() else name)
        with pytest.raises(Parsed):
            module.command(arguments) if hasattr(module, "command") else module.main()
    return None


def stopping(parse: Any, arguments: list[str]) -> Any:
    def parse_and_stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Parsed(parse(parser, arguments))

    return parse_and_stop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    for name, text in STAND_INS.items():
        (folder / name).write_text(text)
    (folder / "configs").unlink()
    for path in (ROOT / "configs").rglob("*.yaml"):
        link = folder / path.relative_to(ROOT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


@pytest.mark.parametrize("block", of("yaml"))
def test_settings_in_yaml_are_taken_as_they_stand(
    block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if block.mark and block.mark[0] == "tested":  # of another program
        assert block.page.name in (ROOT / block.mark[1]).read_text()
        return
    monkeypatch.chdir(folder)
    tree = yaml.safe_load(block.text)
    file = folder / ("configs/ablation" if str(tree.get("base", "")).startswith("..") else ".") / "of_a_page.yaml"
    file.write_text(block.text)
    if "space" in tree:
        Searching(file, DATA).next(keep=False)
        assert "passed over" not in capsys.readouterr().err
    elif "variants" in tree:
        assert len(expand(file, DATA)[1]) >= len(tree["variants"])
    else:
        load_config(file, [*DATA, "data.source=nifti"])


@pytest.mark.parametrize("block", of("python"))
def test_a_block_of_python_names_the_test_that_runs_it(block: Block) -> None:
    """A Chinese page has the code of the English one, which another test sees to."""
    kind, file = block.mark or ("", "")
    assert kind == "tested"
    assert block.page.name.replace(".zh.md", ".md") in (ROOT / file).read_text()


def test_all_other_blocks_are_output() -> None:
    assert {block.language for block in BLOCKS} == {"", "sh", "yaml", "python"}
    for block in BLOCKS:
        if not block.language:
            assert not re.search(rf"^{PROGRAMS}", block.text, re.MULTILINE), f"{block}: a command; begin it with ```sh"
    for page in PAGES:
        indented = re.search(rf"^    {PROGRAMS}", FENCED.sub("", page.read_text()), re.MULTILINE)
        assert not indented, f"{page.name}: {indented}: a command; put it into a block of ```sh"


def test_commands_in_the_text_are_those_that_are_there() -> None:
    """With settings they are parsed by test_documents.py; here those that leave something to the reader."""
    problems = [(page.name, span) for page in PAGES for span in spans(page) if not is_there(span)]
    assert not problems


def options_of(command: str) -> set[str]:
    return set(parser_of(command)._option_string_actions)


def is_there(span: str) -> bool:
    words = bare(span).split()
    if words[0] == "segtrain" and len(words) > 1:
        options = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        return words[1].isupper() or (words[1] in COMMANDS and options <= options_of(words[1]))
    if words[0] == "make" and len(words) > 1:
        return words[1] in TARGETS
    if words[:2] == ["pip", "install"]:
        return problem_of(span) is None
    if words[:2] == ["python", "-m"] and words[2].startswith(("benchmarks", "docs.")):
        return problem_of_module(words[2], []) is None
    if words[0] == "sbatch" and (scripts := [word for word in words if word.endswith(".sbatch")]):
        return all((ROOT / script).exists() for script in scripts)
    return True


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_chinese_page_has_the_commands_code_and_links_of_the_english_one(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh.md", ".md"))
    assert content_of(page) == content_of(english)
    assert f"]({english.name})" in page.read_text()[:500]
    assert f"]({page.name})" in english.read_text()[:500]


def test_lines_of_chinese_are_joined_without_a_space() -> None:
    assert on_page_content("<p>一条\n命令、\n然后 a\nb\n三</p>") == "<p>一条命令、然后 a\nb\n三</p>"


def test_the_site_says_which_pages_are_chinese() -> None:
    html = '<html lang="en" class="no-js">'
    pages = [SimpleNamespace(file=SimpleNamespace(src_uri=name)) for name in ("start/node.md", "start/node.zh.md")]
    assert [on_post_page(html, page) for page in pages] == [html, html.replace("en", "zh-Hans", 1)]


def content_of(page: Path) -> dict[str, Any]:
    """What is the same in all languages; --lang zh apart, and the language of the pages that are linked."""
    text = page.read_text()
    prose = FENCED.sub("", text)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    return {
        "blocks": [(block.language, code_of(block)) for block in blocks(page)],
        "code": Counter(span for span in spans(page) if span != "--lang zh"),
        "links": Counter(re.sub(r"\.zh\.md\b|\.md\b.*", ".md", link) for link in links),
        "headings": [len(level) for level in re.findall(r"^(#+) ", prose, re.MULTILINE)],
        "rows": prose.count("\n|"),
        "items": len(re.findall(r"^(?:-|\d+\.) ", prose, re.MULTILINE)),
    }


def code_of(block: Block) -> list[str]:
    """The lines of a block without comments."""
    lines = (re.sub(r"(^|\s+)#.*", "", line).replace(" --lang zh", "") for line in block.text.splitlines())
    return [line for line in lines if line]
