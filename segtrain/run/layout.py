"""The names in a run directory and in the folder around it; all other code asks this file for them.

runs/<name>/
  config.yaml        resolved, loadable; opens with the command that made it
  code/              the user's own parts as they were, in a folder each
  environment.json   versions, devices, world size, git commit, one entry per start
  split.json         patients per side, hash, version of the definition
  deepspeed.json     the settings given to DeepSpeed, with engine=deepspeed
  metrics.jsonl      one event a line; the curves are derived from it
  tensorboard/       loss, val_loss, val_dsc, lr, images/s, memory, overlays
  checkpoints/       step-00001000/, LATEST, BEST; bad-step-...: damaged, kept
  validation/        epoch-0012.csv and .png
  evaluation/        <patients>-<checkpoint>[-postprocessed]/: scores.csv, summary.json, lesions.csv,
                     volumes.svg and .png, calibration.svg and .png, worst.png, by `segtrain evaluate`
  postprocessing/    settings.json, all_folds.json, effect.csv, by `segtrain postprocess`
  memory.json        the micro-batch for the next start, after a start that ran out of memory
  ranks/             resources and progress of each rank; its stacks when it stalls
  tracked.json       what `segtrain track` has sent, by where it was sent
  outcome.json       finished | stopped | diverged | failed; step, reason, best DSC
  log.txt            the terminal's output, and the other ranks' warnings
  STOP               `touch` it: all ranks save and leave

The runs of an ablation or of a queue share a folder, and a table lies beside them: results.csv, queue.csv. An ablation
has ablation.json there, too, and a search trials.jsonl: what was drawn.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segtrain.config.own_parts import CODE
from segtrain.errors import ConfigError
from segtrain.runtime import files

CONFIG = "config.yaml"
BEGIN, END = "---\n", "...\n"  # of config.yaml, where a cut at a line's end would leave YAML
CHECKPOINTS = "checkpoints"
STOP = "STOP"  # in a run directory, and in a queue's folder
LOG = "log.txt"  # likewise
# In a checkpoint.
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
# In an evaluation's folder.
SCORES = "scores.csv"
SUMMARY = "summary.json"
LESION_TABLE = "lesions.csv"
VOLUMES = "volumes.svg"
VOLUMES_PICTURE = "volumes.png"
CALIBRATION = "calibration.svg"
CALIBRATION_PICTURE = "calibration.png"
WORST = "worst.png"
# Beside runs.
RESULTS = "results.csv"
QUEUE = "queue.csv"
ABLATION = "ablation.json"
TRIALS = "trials.jsonl"
BESIDE_RUNS = (ABLATION, QUEUE, RESULTS, TRIALS)

BAD = "bad-"  # a damaged checkpoint's name begins with it
_STEP = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")
_EPOCH = re.compile(r"epoch-([0-9]{4}|[1-9][0-9]{4,17})\.(csv|png|tmp)")


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder; None for any other name, for example step-00000010.bak."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def epoch_of(name: str) -> int | None:
    """The epoch of a file in validation/; None for any other name."""
    match = _EPOCH.fullmatch(name)
    return int(match[1]) if match else None


def is_damaged_checkpoint(name: str) -> bool:
    """Whether a folder holds a checkpoint that was found damaged and kept."""
    return name.startswith(f"{BAD}step-")


@dataclass(frozen=True)
class RunLayout:
    """Where everything lies in one run directory; making the object touches nothing."""

    root: Path

    @property
    def config_file(self) -> Path:
        return self.root / CONFIG

    @property
    def code(self) -> Path:
        return self.root / CODE

    @property
    def environment_file(self) -> Path:
        return self.root / "environment.json"

    @property
    def split_file(self) -> Path:
        return self.root / "split.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.root / CHECKPOINTS

    @property
    def best_pointer(self) -> Path:
        return self.checkpoints / "BEST"

    @property
    def latest_pointer(self) -> Path:
        return self.checkpoints / "LATEST"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"

    def weights(self, checkpoint: str) -> Path:
        """The weights in the checkpoint of that name."""
        return self.checkpoints / checkpoint / MODEL

    @property
    def validation(self) -> Path:
        return self.root / "validation"

    def validation_table(self, epoch: int) -> Path:
        return self.validation / f"epoch-{epoch:04d}.csv"

    def validation_picture(self, epoch: int) -> Path:
        return self.validation_table(epoch).with_suffix(".png")

    @property
    def evaluations(self) -> Path:
        """The folder of the folders of scores."""
        return self.root / "evaluation"

    def evaluation(self, patients: str, checkpoint: str, postprocessed: bool = False) -> Path:
        """The folder for the scores of `segtrain evaluate`; `checkpoint` is best, last or a step."""
        name = f"step-{checkpoint}" if checkpoint.isdecimal() else checkpoint
        return self.evaluations / f"{patients}-{name}{'-postprocessed' if postprocessed else ''}"

    @property
    def postprocessing(self) -> Path:
        return self.root / "postprocessing"

    @property
    def postprocessing_settings(self) -> Path:
        """Chosen without the patients of the run's own fold."""
        return self.postprocessing / "settings.json"

    @property
    def postprocessing_of_all_folds(self) -> Path:
        """Chosen on the patients of all folds, for the ensemble of several."""
        return self.postprocessing / "all_folds.json"

    @property
    def postprocessing_effect(self) -> Path:
        """The DSC of the run's own patients, with the chosen settings and without."""
        return self.postprocessing / "effect.csv"

    @property
    def out_of_memory_file(self) -> Path:
        """The micro-batch for the next start, left by a start that ran out of memory."""
        return self.root / "memory.json"

    @property
    def tracked_file(self) -> Path:
        """What trackers were sent."""
        return self.root / "tracked.json"

    @property
    def tracked_lock(self) -> Path:
        """Held while a tracker is sent the run."""
        return self.root / ".tracked.lock"

    @property
    def ranks(self) -> Path:
        return self.root / "ranks"

    def rank_state(self, rank: int) -> Path:
        """A rank's resources and progress while it trains."""
        return self.ranks / f"{rank}.json"

    def rank_stacks(self, rank: int) -> Path:
        """A rank's stacks from the time when it made no progress."""
        return self.ranks / f"{rank}.stacks"

    @property
    def outcome_file(self) -> Path:
        return self.root / "outcome.json"

    @property
    def log_file(self) -> Path:
        return self.root / LOG

    @property
    def stop_file(self) -> Path:
        return self.root / STOP

    @property
    def lock_file(self) -> Path:
        """Beside the directory, so that --fresh can move the directory while the lock is held."""
        return self.root.with_name(f".{self.root.name}.lock")

    def engine_settings(self, engine: str) -> Path:
        return self.root / f"{engine}.json"


def run_folders(runs_dir: Path) -> Iterable[Path]:
    """The run directories in a folder, and in its ablations' and queues' folders, in no order."""
    for folder in _folders(runs_dir):
        for one in (folder, *_folders(folder)):
            if os.path.lexists(one / CONFIG):  # also where it is a link that leads nowhere
                yield one


def refuse_run(folder: Path, asked_by: Path, what: str) -> None:
    """Raises ConfigError where the folder that is to hold runs is a run's own: its files would lie among theirs."""
    if (folder / CONFIG).exists():
        raise ConfigError(
            f"{asked_by}: {folder} is a run's directory; give the {what} another name:, or another runs_dir"
        )


def closed_folders(runs_dir: Path) -> Iterable[Path]:
    """The folders in which run directories may be, and this user may not look."""
    for folder in _folders(runs_dir):
        if not files.may_enter(folder):
            yield folder
        elif not (folder / CONFIG).exists():
            yield from (inner for inner in _folders(folder) if not files.may_enter(inner))


def _folders(parent: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except (FileNotFoundError, PermissionError):  # it was removed meanwhile, or is closed
        return []
