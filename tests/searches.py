"""Searches as ablations leave them, made without training."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from made_runs import train

from jobs import confirm
from jobs.confirm import Confirmation
from segtrain.config import to_yaml
from segtrain.data.folds import fold_of
from segtrain.run import Member, Run, expand, write_record

BASE = "name: base\ndata: {source: phantom, phantom: {patients: 30}, image_size: 64}\n"
SPEC = """\
name: search
base: base.yaml
folds: [3, 4]
variants:
  dice: {}
  bce: {loss: bce}
  focal: {loss: focal}
"""
End = Literal["finished", "stopped", "diverged", "failed"]
SHIFTS = {"dice": 0.0, "bce": 0.02, "focal": 0.05}
PATIENTS = tuple(f"P{number:03}" for number in range(30))


def write(folder: Path, spec: str = SPEC) -> Path:
    (folder / "base.yaml").write_text(f"{BASE}runs_dir: {folder / 'runs'}\n")
    (folder / "spec.yaml").write_text(spec)
    return folder / "spec.yaml"


def trained(member: Member, shift: float, state: End = "finished") -> Run:
    """The member's run as training leaves it, with the patients of its fold."""
    data = member.cfg.data
    sides: dict[str, list[str]] = {"train": [], "validation": []}
    for patient in PATIENTS:
        fold = fold_of(patient, data.folds, data.split_seed)
        sides["validation" if fold == member.fold else "train"].append(patient)
    run = train(member.run.root, shift, state, tuple(sides["validation"]))
    run.config_file.write_text(to_yaml(member.cfg))
    run.split_file.write_text(json.dumps({"hash": "0", "version": 2, **sides}))
    return run


def searched(
    path: Path,
    command: tuple[str, ...] = (),
    shifts: Mapping[str, float] = SHIFTS,
    states: Mapping[str, End] = MappingProxyType({}),
) -> list[Member]:
    """The runs of a search, as the command leaves it: finished, but for those of other `states`."""
    spec, members = expand(path, [])
    for member in members:
        trained(member, shifts[member.variant], states.get(member.cfg.name, "finished"))
    write_record(
        members[0].run.root.parent,
        confirm.record_of(spec, members, ["segtrain", "ablate", *command, str(path), "--confirm"]),
    )
    return members


def confirmed(path: Path, *overrides: str) -> Confirmation:
    spec, members = expand(path, list(overrides))
    return confirm.of_search(path, spec, members, list(overrides))
