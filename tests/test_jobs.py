"""Jobs without a cluster: scripts, presets, what comes back and what does not, states read from run directories."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import evaluation_event, train_event
from slurm_programs import entry
from trainings import assert_same, run_to_end, state_of

from jobs import history, requeue, resources, scheduler, submission
from jobs.lookup import Job
from jobs.rank import RankEnd
from jobs.requeue import StartEnd
from jobs.run_state import QUIET_S, summary
from segtrain.config import Config, read_yaml, to_yaml
from segtrain.errors import ConfigError, RunError, StopReason
from segtrain.run import Outcome, Run

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden"
JOB = Job("7")


def call(folder: Path, command: str, *arguments: str | Path, code: int = 0, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{command}", *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def begun(folder: Path, *steps: int) -> Run:
    """A run directory with checkpoints at these steps."""
    run = Run(folder / "runs" / "a")
    for step in steps:
        run.checkpoint(step).mkdir(parents=True)
    return run


def ended(launcher_code: int, codes: Sequence[int], **how: Any) -> StartEnd:
    return StartEnd(launcher_code, [RankEnd(code) for code in codes], **how)


def test_submitting_imports_no_torch() -> None:
    names = [f"jobs.{path.stem}" for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__"]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ["submit", "--cluster", "gpu", "--config", ROOT / "configs/phantom.yaml", "runs_dir=/runs"]),
        (
            "options",
            ["submit", "--nodes", "2", "--gpus-per-node", "4", "--partition", "gpu", "--account", "mri",
             "--qos", "long", "--time", "1-12:00:00", "--constraint", "a100", "--mem", "64G",
             "--mail-user", "me@example.org",
             "--mail-type", "END,FAIL", "--dependency", "afterok:12", "--comment", "two words", "--warn-s", "300",
             "--slurm", "reservation=mri", "--slurm", "exclusive", "name=big", "runs_dir=/runs"],
        ),
        (
            "ablation",
            ["ablate", ROOT / "configs/ablation/loss.yaml", "--cluster", "cpu", "--max-parallel", "8",
             "data.root=/data", "runs_dir=/runs"],
        ),
    ],
)  # fmt: skip
def test_the_script_is_the_golden_one(tmp_path: Path, name: str, arguments: list[str | Path]) -> None:
    """UPDATE_GOLDEN=1 writes the files anew."""
    command, *options = arguments
    script = call(tmp_path, str(command), "--dry-run", *options).replace(sys.executable, "PYTHON")
    file = GOLDEN / f"{name}.sbatch"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(script)
    assert script == file.read_text()
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


@pytest.mark.parametrize("preset", resources.presets(), ids=lambda p: p.stem)
def test_every_preset_opens_with_its_command_and_loads(preset: Path) -> None:
    assert f"segtrain submit --cluster {preset.stem}" in preset.read_text().splitlines()[0]
    assert resources.from_tree(read_yaml(preset), str(preset)).minutes > 0


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cluster", "nowhere"], "--cluster nowhere: no such preset; there are alliance, cpu, gpu,"),
        (["--nodes", "0"], "the options: nodes='0': Input should be greater than or equal to 1; change nodes"),
        (
            ["--time", "soon"],
            "the options: time='soon': write minutes, HH:MM:SS or D-HH:MM:SS (in YAML in quotes)",
        ),
        (["--slurm", "=x"], "--slurm =x: not an option of sbatch"),
        (["--executor", "local", "--nodes", "2"], "--nodes 2: --executor local is this machine alone"),
        (["--executor", "local", "--mem", "64G"], "--mem 64G: is for a cluster, and --executor local trains on this"),
        (["--executor", "local", "--env", "A=1"], "--env A=1: is for a cluster"),
        (
            ["--executor", "local", "--python", "podman run x python", "--dry-run"],
            "--python podman run x python: is for",
        ),
        (["--slurm", "dependency=afterok:1"], "slurm: dependency=afterok:1: segtrain sets it itself; use --dependency"),
        (["--slurm", "job-name=x"], "slurm: job-name=x: segtrain sets it itself; a job has the name of its run"),
        (["--executor", "local", "runs_dir=/dev/null"], "/dev/null: cannot be written (Not a directory)"),
        (["train.epoch=3"], "unknown key train.epoch; did you mean train.epochs?"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path: Path, arguments: list[str], said: str) -> None:
    answer = call(tmp_path, "submit", *arguments, code=2)
    assert said in answer
    assert len(answer.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.law("L12")
def test_a_preset_names_its_wrong_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine: unknown key node; did you mean nodes\?"):
        resources.from_tree({"node": 2}, "mine")


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:30", 91), ("2:00:00", 120), ("1-00", 1440), ("1-2:30", 1590), ("0-00:00:01", 1), ("00:00:30", 1)],
)
def test_a_time_limit_means_what_sbatch_takes_it_for(time: str, minutes: int) -> None:
    assert resources.Resources(time=time).minutes == minutes


@pytest.mark.parametrize(
    ("steps", "count"), [([0], 0), ([0, 0], 1), ([0, 0, 0, 0], 3), ([0, 0, 5], 0), ([0, 5, 5, 5], 2), ([5, 5, 9, 9], 1)]
)
def test_starts_that_gain_nothing_are_counted_from_the_last_gain(steps: list[int], count: int) -> None:
    assert history.fruitless(steps) == count


def test_a_job_is_not_started_a_fourth_time_in_vain_and_the_next_submission_counts_anew(tmp_path: Path) -> None:
    run = begun(tmp_path, 40)
    starts = history.History(run)
    for _ in range(history.MAX_FRUITLESS):
        starts.begin("7")
    with pytest.raises(RunError, match="the last 3 starts of job 7 gained no step after step 40; not started again"):
        starts.begin("7")
    assert starts.entries("7")[-1]["how"] == "given up"
    starts.begin("8")
    run.checkpoint(41).mkdir()
    starts.begin("7")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (ended(0, [0, 0]), 0),
        (ended(1, [2, 75]), 2),
        (ended(1, [3, 3]), 3),
        (ended(1, [75, 75]), 75),
        (ended(1, []), 1),
        (ended(1, [], signal="SIGTERM"), 75),
        (ended(-9, [], lost=["node 1"]), 75),
        (ended(1, [2], signal="SIGTERM"), 2),
    ],
)
def test_the_exit_code_says_what_happened_under_torchrun(end: StartEnd, code: int) -> None:
    assert end.code == code


@pytest.mark.parametrize(
    ("end", "state", "how"),
    [
        (ended(1, [75], signal="SIGUSR2"), "RUNNING", "requeued"),
        (ended(1, [75], signal="SIGUSR2"), scheduler.UNKNOWN, "requeued"),
        (ended(1, [75], signal="SIGTERM"), "COMPLETING", "left to SLURM"),
        (ended(1, [75], signal="SIGTERM"), None, "left to SLURM"),
        (ended(1, [2], signal="SIGTERM"), "RUNNING", "failed"),
        (ended(1, [3]), "RUNNING", "failed"),
        (ended(1, []), "RUNNING", "failed"),
        (ended(0, [0]), "RUNNING", "finished"),
    ],
)
def test_only_what_stopped_and_still_runs_is_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: StartEnd, state: str | None, how: str
) -> None:
    """A job that was cancelled is on its way out and must not come back; one that SLURM requeues comes back anyway."""
    requeued: list[str] = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(scheduler, "state_of", lambda job: state)
    monkeypatch.setattr(scheduler, "requeue", requeued.append)
    starts = history.History(begun(tmp_path, 40))
    requeue.conclude(starts, "7", end)
    assert starts.entries("7")[-1]["how"] == how
    assert requeued == (["7"] if how == "requeued" else [])


def test_a_snapshot_holds_the_code_and_the_config(tmp_path: Path, tiny: Config) -> None:
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources(nodes=2))
    for part in ("segtrain/train.py", "jobs/node.py", "configs/phantom.yaml", "segtrain/data/store.py"):
        assert (made.code / part).read_bytes() == (ROOT / part).read_bytes()
    assert made.config("tiny").read_text() == to_yaml(cfg)
    assert made.resources.nodes == 2
    assert made.run("tiny").root == tmp_path / "runs" / "tiny"
    assert submission.create(cfg.runs_dir, "tiny", [cfg], made.resources).root.name == "002"


def test_a_run_trains_here_without_a_cluster_from_its_snapshot(tmp_path: Path, tiny: Config) -> None:
    (tmp_path / "given.yaml").write_text(to_yaml(tiny))
    arguments = ("--executor", "local", "--config", "given.yaml")
    assert "Best validation mean DSC" in call(tmp_path, "submit", *arguments)
    run = tmp_path / "runs" / "tiny"
    assert_same(state_of(run), state_of(run_to_end(tmp_path / "alone", tiny, 1)))
    assert "is finished; nothing to submit" in call(tmp_path, "submit", *arguments)
    [row] = json.loads(call(tmp_path, "status", "--json"))
    assert (row["run"], row["state"], row["epoch"], row["epochs"], row["n"]) == ("tiny", "finished", 1, 1, 2)
    assert f"{row['best_dsc']:.4f}" in call(tmp_path, "status")
    assert "the earlier run is kept as" in call(tmp_path, "submit", "--fresh", *arguments)
    assert_same(state_of(run), state_of(run.with_name("tiny.1")))


def test_the_status_tells_runs_that_end_from_runs_that_go_on(tmp_path: Path) -> None:
    run = begun(tmp_path, 40)
    run.checkpoints.parent.joinpath("config.yaml").write_text("train: {epochs: 10}\n")
    assert summary(run, None, None, time.time() + QUIET_S + 1)["state"] == "broken off"
    for epoch in (1, 2):
        run.record(train_event(20 * epoch))
        run.record(evaluation_event(20 * epoch, epoch, 0.1 * epoch))
    now = time.time()
    row = summary(run, None, None, now)
    assert (row["state"], row["epoch"], row["epochs"], row["best_dsc"]) == ("running", 2, 10, 0.2)
    assert row["eta_s"] is not None
    assert summary(run, None, None, now + 2 * QUIET_S)["state"] == "broken off"
    assert summary(run, JOB, entry("7", "PENDING"), now)["state"] == "pending"
    assert summary(run, JOB, entry("7", "NODE_FAIL"), now)["state"] == "broken off"
    run.end(Outcome("stopped", 40, 2, 0.2, StopReason.SIGUSR2, "Stopped: stopped by SIGUSR2"))
    told = {"PENDING": "pending", "RUNNING": "running", "COMPLETING": "stopped", "CANCELLED": "stopped"}
    assert {said: summary(run, JOB, entry("7", said), now)["state"] for said in told} == told
    run.end(Outcome("diverged", 40, 2, 0.2, message="Diverged: the loss is nan"))
    assert summary(run, JOB, entry("7", "FAILED"), now)["state"] == "diverged"
    assert "nan" in summary(run, JOB, entry("7", "FAILED"), now)["why"]


@pytest.mark.law("L12")
def test_the_batch_script_is_told_what_is_wrong(tmp_path: Path) -> None:
    spec = ROOT / "configs/ablation/loss.yaml"
    said = call(tmp_path, "batch", "member", spec, "75", "data.root=/data", code=2)
    assert "has 75 runs, none is number 75; submit with --array=0-74" in said
    assert call(tmp_path, "batch", "run", "--fresh", "name=x", "runs_dir=/r").strip() == "/r/x"


def test_the_templates_pass_shellcheck() -> None:
    try:
        subprocess.run(["shellcheck", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("shellcheck is not installed")
    files = [*sorted((ROOT / "slurm").glob("*.s*")), ROOT / "jobs" / "job.sh"]
    done = subprocess.run(["shellcheck", "-x", *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (len(files), done.stdout) == (7, "")
