"""All five kinds of parts of the user's own, in a job on real patients, from end to end.

The job is started as on other sites: with options for srun, by a launcher of several words, in a bare environment, in a
folder with a space and a percent sign.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest
from lab import Lab
from trainings import run_to_end, state_of

from segtrain.config import Config, load_config
from segtrain.data.prepare import ensure_store
from segtrain.run import read_evaluation

PARTS = Path(__file__).parents[2] / "configs" / "ablation" / "own_parts.py"
PATIENTS = 4
EPOCHS = 4


@pytest.fixture
def own(lab: Lab, lgg_root: Path, tmp_path: Path) -> Config:
    """All five parts are the user's own: copies in a folder that is gone later."""
    parts = shutil.copy(PARTS, tmp_path)
    root = tmp_path / "kaggle_3m"
    root.mkdir()
    for patient in sorted(lgg_root.iterdir())[:PATIENTS]:
        (root / patient.name).symlink_to(patient)
    cfg = load_config(
        "lgg",
        [
            "name=own", "device=cpu", f"data.root={root}", f"data.store={tmp_path}/prepared", "data.image_size=32",
            "data.validation_patients=2", f"loss={parts}:power_loss", "loss.power=1.4",
            f"model.name={{part: '{parts}:DropoutUNet', width: 4, dropout: 0.2}}", f"data.augment={parts}:fog",
            f"optim.name={parts}:Lion", "optim.lr=3e-4", f"optim.schedule={parts}:halves", f"train.epochs={EPOCHS}",
            "train.global_batch=8", "checkpoint.every_min=0.02", "evaluate.pictures=0", "evaluate.every_epochs=2",
        ],
    )  # fmt: skip
    ensure_store(cfg.data)
    return cfg


@pytest.mark.law("L6")
@pytest.mark.law("L13")
def test_a_job_of_own_parts_comes_back_bitwise_and_is_used_from_another_folder(
    lab: Lab, own: Config, tmp_path: Path
) -> None:
    unbroken = run_to_end(tmp_path / "alone", own, 2)
    lab.runs = tmp_path / "runs of 50%"
    site = ("--srun", "label", "--python", f"env LAUNCHED=yes {sys.executable}", "--slurm", "export=NONE")
    job = lab.submit(own, "--processes-per-node", "2", "--env", "OF_A_PRESET=yes", *site)
    (tmp_path / PARTS.name).unlink()  # the job has a copy
    lab.until_step(own.name, 20)
    lab.call("scontrol", "requeue", job)
    lab.until("it starts again", lambda: lab.starts(own.name) == 2)
    lab.ends_the_same(own, job, state_of(unbroken))
    log = (lab.runs / ".jobs" / own.name / "001" / "logs" / f"{own.name}.out").read_text()
    assert re.search(r"^0: .*jobs: own: node 0 of 1", log, re.MULTILINE)

    elsewhere, run = tmp_path / "elsewhere", lab.runs / own.name
    assert {path.name for path in (run / "code").glob("*/*.py")} == {PARTS.name}
    segtrain = (sys.executable, "-m", "segtrain")
    for of, out in ((run, "scores"), (unbroken, "unbroken")):
        shown = lab.call(*segtrain, "evaluate", of, "--out", elsewhere / out)
        assert f"runs {of}/code/model/own_parts.py:DropoutUNet" in shown
    assert read_evaluation(elsewhere / "scores")[0] == read_evaluation(elsewhere / "unbroken")[0]
    lab.call(*segtrain, "predict", run, "--images", str(own.data.root), "--out", elsewhere / "masks")
    assert len(list((elsewhere / "masks").rglob("*_mask.tif"))) > 20 * PATIENTS
    page = lab.call(*segtrain, "report", run, "--out", elsewhere / "report")
    assert "is code of the user's own, which a report does not run" in page
