"""The run directories in and below a folder, whatever its links lead to."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from segtrain.run import Run
from segtrain.runtime import files

log = logging.getLogger(__name__)


def runs_below(top: Path) -> list[Path]:
    """`top` itself where it is a run, else every run below it but those that `--fresh` has set aside.

    A run that a link leads to, too, is listed once. Links are followed when all else is done, each folder once, and
    none to a folder that holds `top`: they may lead in circles.
    """
    top = top.absolute()
    runs: dict[Path, Path] = {}  # by where they really are
    seen: set[Path] = set()
    links: list[Path] = []
    waiting = [top]
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            real = folder.resolve(strict=True)
            if real in seen or (folder != top and top.resolve().is_relative_to(real)):
                if _is_run(folder):
                    continue
                log.info("%s: left out, it leads to %s", folder, real)
                continue
            seen.add(real)
            if not files.may_enter(folder):
                log.warning("%s: left out: %s", folder, files.barrier(folder))
            elif _is_run(folder):
                runs[real] = folder
            else:
                inner = list(_inner(folder))
                links += [child for child in inner if child.is_symlink()]
                waiting += reversed([child for child in inner if not child.is_symlink()])
        except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
            log.warning("%s: left out: %s", folder, error)
    return list(runs.values())


def _inner(folder: Path) -> Iterator[Path]:
    for child in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        original, dot, number = child.name.rpartition(".")
        if dot and number.isdigit() and _is_run(folder / original):
            log.info("%s: left out, --fresh has set it aside", child)
            continue
        yield child


def _is_run(folder: Path) -> bool:
    return files.may_enter(folder) and os.path.lexists(Run(folder).environment_file)
