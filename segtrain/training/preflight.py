"""What would end the runs of an ablation before they begin, found before the first of them is trained.

In a process of its own, since it imports torch: `python -m segtrain.training.preflight FOLDER RANKS OUT`, with a
config a run in FOLDER; OUT, a JSON file, then has the runs that cannot be trained here, each with its reason.
"""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segtrain.config import Config, DataConfig, load_config
from segtrain.data.order import make_order
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import make_split
from segtrain.data.store import Store
from segtrain.errors import SegtrainError
from segtrain.run import Run
from segtrain.runtime import files
from segtrain.runtime.launcher import signal_when_parent_dies
from segtrain.runtime.process import start_logging

if TYPE_CHECKING:
    import torch


class Rehearsal:
    """Checks runs for `ranks` ranks on this machine; what runs have in common is done once."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._stores: list[tuple[DataConfig, Store | SegtrainError]] = []
        self._built: list[tuple[Config, bool, SegtrainError | None]] = []

    def check(self, cfg: Config) -> None:
        """Raise what training would raise before its first step. Prepares the data where that is still to be done."""
        from segtrain.runtime.world import device_of
        from segtrain.training.build import refuse_for_device  # imports torch: seconds

        device = device_of(cfg.device, self.ranks - 1, self.ranks)
        refuse_for_device(cfg, device.type)
        store = self._store(cfg.data)
        make_order(cfg, store, make_split(cfg.data, store)).columns(0, self.ranks)
        self._build(cfg, device)

    def _store(self, data: DataConfig) -> Store:
        same = replace(data, fold=0)
        found = next((store for other, store in self._stores if other == same), None)
        if found is None:
            try:
                found = ensure_store(data)
            except SegtrainError as error:
                found = error
            self._stores.append((same, found))
        if isinstance(found, SegtrainError):
            raise found
        return found

    def _build(self, cfg: Config, device: "torch.device") -> None:
        from segtrain.training.build import rehearse

        begun = Run(Path(cfg.runs_dir).expanduser() / cfg.name).saved_step() > 0
        same = replace(cfg, name="same", seed=0, data=replace(cfg.data, fold=0))
        known = [error for other, with_weights, error in self._built if (other, with_weights) == (same, begun)]
        if not known:
            try:
                rehearse(cfg, self.ranks, device, begun)
            except SegtrainError as error:
                known.append(error)
            self._built.append((same, begun, known[0] if known else None))
        if known and known[0]:
            raise known[0]


def main(folder: str, ranks: str, out: str) -> int:
    """Check all configs of the folder."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # it has nothing to save
    signal_when_parent_dies(signal.SIGTERM)
    start_logging()
    rehearsal, problems = Rehearsal(int(ranks)), {}
    for file in sorted(Path(folder).glob("*.yaml")):
        try:
            rehearsal.check(load_config(file))
        except SegtrainError as error:
            problems[file.name.removesuffix(".yaml")] = str(error)
    files.write_json(Path(out), problems)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
