"""The record of an ablation beside its runs, ablation.json: how its best is confirmed, or which search it confirms."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from segtrain.errors import DAMAGED
from segtrain.run.layout import ABLATION
from segtrain.run.stored import tree_in
from segtrain.runtime import files
from segtrain.runtime.outbox import patiently

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """The ablation whose choice a confirmation tests.

    variants: how many it chose from; patients: all whom any of its runs has scored, each with the person.
    """

    name: str
    folder: str
    folds: tuple[int, ...]
    variants: int
    chosen: str
    baseline: str
    patients: Mapping[str, str]


@dataclass(frozen=True)
class AblationRecord:
    """An ablation: the command that confirms its best on the folds that it leaves, or what it confirms itself."""

    name: str
    confirm: str = ""  # a line for a shell; empty where no fold is left
    folds_left: tuple[int, ...] = ()
    search: Search | None = None  # of a confirmation

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Raises one of ValueError, KeyError, TypeError, AttributeError."""
        search = tree.get("search")
        if search is not None:
            search = Search(**search | {"folds": tuple(search["folds"]), "patients": dict(search["patients"])})
        return cls(str(tree["name"]), str(tree["confirm"]), tuple(map(int, tree["folds_left"])), search)


def write_record(folder: Path, record: AblationRecord) -> None:
    """Write ablation.json beside the runs."""
    file = folder / ABLATION
    patiently(file, partial(files.write_json, file, asdict(record)))


def read_record(folder: Path) -> AblationRecord | None:
    """The record beside the runs; None where there is none, or it cannot be read."""
    file = folder / ABLATION
    try:
        return AblationRecord.from_json(tree_in(file, dict))
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        log.warning("%s: cannot be read (%s)", file, error)
        return None
