"""Runs in Weights & Biases (wandb 0.31: wandb.init, Run.log, Settings).

A point's `_step` is its position and its x axis the training step, so the server takes no point twice: it refuses steps
that are not above the last one.
"""

import os
from contextlib import AbstractContextManager
from typing import Any

from segtrain.errors import ConfigError
from segtrain.run.tracked import Sent
from segtrain.runtime.optional_package import package
from segtrain.tracking.record import Record
from segtrain.tracking.tracker import Destination, explained

OFFLINE_MODES = ("offline", "dryrun")
FAILED = ("failed", "diverged")
# About this machine, which is not the one that trained, and what its terminal shows.
LEFT_OUT: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class WandbRuns:
    """A project of Weights & Biases."""

    def __init__(self, to: Destination) -> None:
        """Raises ConfigError: no wandb, no key."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to the vendor
        self._wandb = package("wandb", "--to wandb")
        self._to = to
        mode = os.environ.get("WANDB_MODE")
        if mode == "disabled":
            raise ConfigError("WANDB_MODE=disabled: nothing would be sent; unset it")
        self._offline = to.offline or mode in OFFLINE_MODES
        if not self._offline:
            with self._errors():
                has_key = self._wandb.login(prompt=False)  # wandb would write the answer into a file
            if not has_key:
                raise ConfigError("wandb: has no key; set WANDB_API_KEY, run wandb login, or write files by --offline")

    @property
    def place(self) -> str:
        return self._to.words("wandb", self._offline)

    def _errors(self) -> AbstractContextManager[None]:
        remedy = "check the key and the network, or write files by --offline"
        return explained(self.place, (self._wandb.errors.Error, OSError), remedy)

    def sent(self, record: Record) -> Sent | None:
        return None

    def send(self, record: Record, after: int) -> str:
        # wandb sync of a second offline folder replaces what the first one sent, so each holds the whole run.
        wandb, first = self._wandb, -1 if self._offline else after
        with self._errors():
            run = wandb.init(
                project=self._to.project,
                id=record.id,
                name=record.name,
                group=record.group,
                dir=self._to.folder,
                mode="offline" if self._offline else "online",
                resume=None if self._offline else "allow",
                settings=wandb.Settings(**LEFT_OUT),
            )
            try:
                run.config.update(dict(record.settings), allow_val_change=True)
                run.define_metric("step", hidden=True)
                run.define_metric("*", step_metric="step")
                for point in record.points:
                    if point.position > first:
                        values = {**point.values, "step": point.step, "_timestamp": point.time}
                        run.log(values, step=point.position)
                run.summary.update({**record.scores, **record.facts})
            finally:
                where = str(run.settings.sync_dir if self._offline else run.url)
                run.finish(exit_code=int(record.state in FAILED))
        return f"{where}; to send it: wandb sync {where}" if self._offline else where
