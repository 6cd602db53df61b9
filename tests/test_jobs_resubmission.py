"""Where a site forbids requeue, the same script is submitted again: one run, bounded as requeues are. No cluster."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import batch, history, node, overview, resources, sbatch, scheduler, submission
from jobs.rank import RankEnd
from jobs.rendezvous import Endpoint
from jobs.requeue import StartEnd
from segtrain.config import Config
from segtrain.errors import StopReason
from segtrain.run import Run


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SLURM's commands on a site that forbids requeue; sbatch notes its arguments and environment."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(scheduler, "state_of", lambda job: "RUNNING")
    monkeypatch.setattr(scheduler, "time_limit_s", lambda job: 3600.0)
    folder = tmp_path / "slurm"
    folder.mkdir()
    submit = f"""cd {folder}; echo "$@" >>orders; env | grep ^SLURM >seen
    [ "$1" = --parsable ] || echo -n 'Submitted batch job '
    echo "$((7 + $(wc -l <orders)))\""""
    for name, script in {"srun": "", "sbatch": submit, "squeue": "echo '8|PENDING'"}.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(scheduler, "requeue", lambda job: "requeue is disabled")
    return folder


@pytest.mark.law("L14")
def test_where_requeue_is_forbidden_a_template_is_submitted_again_as_it_was_and_bounded_alike(
    tmp_path: Path, refusing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "runs" / "a")
    starts = history.History(run)
    monkeypatch.setattr(scheduler, "dead_nodes", list)
    monkeypatch.setattr(history.History, "lasted_s", lambda *_, **__: 400.0)
    monkeypatch.setenv("SLURM_JOB_PARTITION", "gpu")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    for number in range(history.MAX_FRUITLESS):
        monkeypatch.setenv("SLURM_JOB_ID", str(7 + number))
        batch.command(["begin", str(run.root)])
        words = ["--asked", "USR2", "--again", "/spool/script", "--config", "a.yaml", "--fresh", "name=a"]
        assert batch.command(["end", str(run.root), "--code", "75", *words]) == 75
    assert [entry["how"] for entry in starts.entries() if entry["event"] == "end"] == [
        "resubmitted",
        "resubmitted",
        "given up",
    ]
    options = "--parsable --dependency=afterany:7 --time=60 --partition=gpu --cpus-per-task=8"
    assert (refusing / "orders").read_text().splitlines() == [
        f"{options} /spool/script --config a.yaml name=a",
        f"{options.replace('7', '8')} /spool/script --config a.yaml name=a",
    ]
    assert (refusing / "seen").read_text() == ""
    assert starts.line("9") == ["9", "8", "7"]


@pytest.mark.parametrize(
    ("variables", "lines", "options"),
    [
        ({"SLURM_GPUS_PER_NODE": "a100:4", "SLURM_GPUS_ON_NODE": "4"}, "", ["--gpus-per-node=a100:4"]),
        ({"SLURM_GPUS_ON_NODE": "4"}, "#SBATCH --gres=gpu:4", []),
        ({"SLURM_GPUS_ON_NODE": "4"}, "#SBATCH -N 1 -G 4", []),
        ({"SLURM_GPUS_ON_NODE": "4"}, "#SBATCH --partition=gpu --cpus-per-gpu=8", ["--gpus-per-node=4"]),
        ({"SLURM_GPUS_ON_NODE": "4"}, "# gpus of the command line", ["--gpus-per-node=4"]),
        ({"SLURM_MEM_PER_CPU": "4000"}, "", ["--mem-per-cpu=4000"]),
    ],
)
def test_a_template_is_submitted_again_with_what_it_was_given(
    tmp_path: Path, refusing: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], lines: str,
    options: list[str],
) -> None:  # fmt: skip
    """Once: what stands in the script's own lines counts there. A time limit that is not known is none of a year."""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/bash\n{lines}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(scheduler, "time_limit_s", lambda job: float("inf"))
    assert batch._sbatch("7", str(script), "name=a") == [
        "sbatch", "--parsable", "--dependency=afterany:7", *options, str(script), "name=a",
    ]  # fmt: skip


@pytest.mark.law("L14")
@pytest.mark.parametrize("key", [True, False])
def test_where_requeue_is_forbidden_a_submission_is_submitted_again_and_stays_one_run(
    tmp_path: Path, tiny: Config, refusing: Path, monkeypatch: pytest.MonkeyPatch, key: bool
) -> None:
    """By the preset's key, or when SLURM refuses; the submission's record has the new job. It does not start over."""
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    asked = resources.Resources(resubmit=key)
    made = submission.create(cfg.runs_dir, "tiny", [cfg], asked, fresh=True)
    assert ("#SBATCH --no-requeue" in sbatch.script(made, "tiny", asked)) == key
    made.keep(runs={"tiny": "7"})
    start = node.Start(made, "tiny", node.Node(0, 1, "n1", "7", 0), node.StopSignal())
    assert "--fresh" in start._command(Endpoint("n1", 1))
    monkeypatch.setattr(start, "_lead", lambda: StartEnd(1, [RankEnd(75, StopReason.SIGUSR2)], "SIGUSR2"))
    assert start.run() == 75
    assert start.history.last("7")["how"] == "resubmitted", start.history.last("7")
    assert made.record["runs"] == {"tiny": "8"}
    assert [row["run"] for row in overview.rows(tmp_path / "runs", 0.0)] == ["tiny"]
    assert "#SBATCH --dependency=afterany:7" in (made.logs / "8_submission.sh").read_text()
    again = node.Start(made, "tiny", node.Node(0, 1, "n1", "8", 0), node.StopSignal())
    assert "--fresh" not in again._command(Endpoint("n1", 1))
