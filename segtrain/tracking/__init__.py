"""Runs sent to a tracker of experiments, from their files: never in the training loop.

    record.py        what is sent of a run: settings, scores, state, the points of its curves
    sending.py       a run sent to a tracker: what is new, once
    tracker.py       what trackers have in common
    wandb_runs.py    Weights & Biases
    mlflow_runs.py   MLflow
    swanlab_runs.py  SwanLab

Imports no torch.
"""

from segtrain.tracking.sending import TRACKERS, send_run
from segtrain.tracking.tracker import Destination

__all__ = ["TRACKERS", "Destination", "send_run"]
