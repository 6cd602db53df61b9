"""The run directory, a public interface (DESIGN 5): this file alone knows the names in it.

runs/<name>/
  config.yaml        resolved, loadable; opens with the command that made it
  environment.json   versions, devices, world size, git commit, one entry a start
  split.json         patients per side, hash
  metrics.jsonl      one event a line; the curves are derived from it
  tensorboard/       loss, val_loss, val_dsc, lr, images/s, memory, overlays
  checkpoints/       step-00001000/, BEST
  validation/        epoch-0012.csv and .png
  outcome.json       finished | diverged | failed; step, reason, best DSC
  log.txt            what the terminal showed; other ranks' warnings too
"""

import csv
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from segtrain.config import Config, first_difference, from_tree, to_yaml
from segtrain.errors import ConfigError, RunError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run's directory; making the object touches nothing."""

    root: Path

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def best_pointer(self) -> Path:
        return self.root / "checkpoints" / "BEST"

    @property
    def log_file(self) -> Path:
        return self.root / "log.txt"

    def checkpoint(self, step: int) -> Path:
        return self.root / "checkpoints" / f"step-{step:08d}"

    def validation_table(self, epoch: int) -> Path:
        return self.root / "validation" / f"epoch-{epoch:04d}.csv"

    def validation_picture(self, epoch: int) -> Path:
        return self.validation_table(epoch).with_suffix(".png")

    def earlier(self, cfg: Config) -> dict[str, Any] | None:
        """The outcome of a finished run of this config, None if there is no run yet; changes nothing.

        Raises RunError when the directory holds a run of another config, or one that did not finish.
        """
        if not self.root.exists():
            return None
        fresh = "--fresh starts over and keeps the old run beside it"
        try:
            theirs = from_tree(yaml.safe_load((self.root / "config.yaml").read_text()), where=str(self.root))
            outcome = json.loads((self.root / "outcome.json").read_text()) if self._outcome.exists() else {}
        except (OSError, ValueError, yaml.YAMLError, ConfigError) as error:
            raise RunError(f"{self.root}: holds no readable run ({' '.join(str(error).split())}); {fresh}") from error
        if different := first_difference(cfg, theirs):
            key, ours, other = different
            raise RunError(f"{self.root}: this run has {key}={other}, not {ours}; choose another name=..., or {fresh}")
        if outcome.get("state") != "finished":
            raise RunError(f"{self.root}: this run ended early ({outcome.get('reason', 'killed')}); {fresh}")
        return dict(outcome)

    def create(self, cfg: Config, split: Mapping[str, Any], world_size: int, device: str) -> None:
        """Make the directory with config, split and environment; a directory that is there is moved aside."""
        if self.root.exists():
            kept = next(p for n in range(1, 10_000) if not (p := self.root.with_name(f"{self.root.name}.{n}")).exists())
            self.root.rename(kept)
            log.info("the earlier run is kept as %s", kept)
        try:
            for folder in (self.tensorboard, self.best_pointer.parent, self.validation_table(0).parent):
                folder.mkdir(parents=True)
        except OSError as error:
            raise RunError(
                f"{self.root}: cannot be made ({error.strerror}); set runs_dir to a writable folder"
            ) from error
        command = shlex.join(["python", "-m", "segtrain.train", *sys.argv[1:]])
        (self.root / "config.yaml").write_text(f"# {command}\n{to_yaml(cfg)}")
        write_json(self.root / "split.json", split)
        write_json(self.root / "environment.json", [_environment(world_size, device)])

    def record(self, event: str, step: int, **values: Any) -> None:
        """Append one event to metrics.jsonl."""
        line = json.dumps({"event": event, "step": step, "time": round(time.time(), 3), **values})
        with self.metrics.open("a") as file:
            file.write(line + "\n")

    def write_scores(self, epoch: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """The per-patient table of an epoch's evaluation."""
        tmp = self.validation_table(epoch).with_suffix(".tmp")
        with tmp.open("w", newline="") as file:
            table = csv.DictWriter(file, fieldnames=list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        tmp.replace(self.validation_table(epoch))

    def write_picture(self, epoch: int, picture_hwc: NDArray[np.uint8]) -> None:
        """The overlays of an epoch's evaluation, uint8 [height, width, 3]."""
        Image.fromarray(picture_hwc).save(self.validation_picture(epoch), optimize=True)

    def end(self, state: str, step: int, reason: str | None, best_dsc: float | None) -> None:
        """Write outcome.json."""
        write_json(self._outcome, {"state": state, "step": step, "reason": reason, "best_dsc": best_dsc})

    @property
    def _outcome(self) -> Path:
        return self.root / "outcome.json"


def write_json(path: Path, tree: Any) -> None:
    """Write JSON aside and rename: a reader never meets half a file."""
    tmp = path.with_name(f".{path.name}.tmp")
    tmp.write_text(json.dumps(tree, indent=1) + "\n")
    tmp.replace(path)


def _environment(world_size: int, device: str) -> dict[str, Any]:
    packages = ("segtrain", "torch", "numpy", "scipy", "pillow", "pydantic", "safetensors", "tensorboard")
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "world_size": world_size,
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "git_commit": commit.stdout.strip() or None,
    }


class Curves:
    """The TensorBoard log of a run."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed on rank 0 alone

        self.writer = SummaryWriter(str(folder))

    def add(self, step: int, **scalars: float) -> None:
        """One point of each curve."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def add_picture(self, step: int, name: str, picture_hwc: NDArray[np.uint8]) -> None:
        """A picture, uint8 [height, width, 3]."""
        self.writer.add_image(name, picture_hwc, step, dataformats="HWC")

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
