"""The batch scripts in slurm/, run by bash with stand-ins for SLURM's programs and for Python."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Python, which answers jobs.batch and writes down what torchrun is given; srun, which drops its own options.
PYTHON = """#!/bin/bash
case "$*" in
*jobs.batch\\ run*) echo "$RUNS/a run" ;;
*jobs.batch\\ member*) echo "$RUNS/a run.yaml" ;;
*jobs.batch\\ begin*) echo "$RUNS/codes" ;;
*segtrain\\ report*) printf '%s\\n' "$@" >"$RUNS/report" ;;
*jobs.launch*) printf '%s\\n' "$EXPORTED" "$@" >"$RUNS/torchrun" ;;
esac
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >>"$RUNS/srun"; shift; done
EXPORTED=$SLURM_EXPORT_ENV SLURM_JOB_NUM_NODES=2 SLURM_NODEID=0 exec "$@"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with spaces and a percent sign that holds the programs, an image and the runs."""
    folder = tmp_path / "a folder of 50%"
    (folder / "runs").mkdir(parents=True)
    programs = {
        "my python": PYTHON,
        "srun": SRUN,
        "scontrol": "#!/bin/bash\n[ $1 = show ] && printf 'n1\\nn2\\n'; exit 0\n",
        "apptainer": '#!/bin/bash\n[ "$1 $2 $3" = "exec --nv an image.sif" ] || exit 9\nshift 3\nexec "$@"\n',
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def call(
    folder: Path, template: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SEGTRAIN_"))}
    environment = {
        **inherited,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "RUNS": str(folder / "runs"),
        "PYTHON": str(folder / "my python"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_EXPORT_ENV": "NONE",
        **(env or {}),
    }
    return subprocess.run(
        ["bash", str(ROOT / "slurm" / f"{template}.sbatch"), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("template", "arguments", "env", "message"),
    [
        ("train", [], {"SEGTRAIN_HOME": "/nowhere"}, "SEGTRAIN_HOME: no checkout there; submit from the checkout, or"),
        ("train", [], {"PYTHON": "/no/python"}, "PYTHON=/no/python: no such program; run make setup, or set PYTHON"),
        ("report", [], {}, "the report of what? sbatch slurm/report.sbatch RUNS"),
        ("report", ["--lang", "zh"], {}, "the report of what? sbatch slurm/report.sbatch RUNS"),
        ("ablation", [], {}, "which ablation? sbatch --array=0-N slurm/ablation.sbatch SPEC"),
        ("ablation", ["s.yaml"], {}, "--array is missing: sbatch --array=0-N slurm/ablation.sbatch s.yaml"),
    ],
)
def test_a_template_says_what_is_missing(
    folder: Path, template: str, arguments: list[str], env: dict[str, str], message: str
) -> None:
    done = call(folder, template, *arguments, env=env)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("template", ["train", "preemptible", "ablation"])
@pytest.mark.parametrize("words", [0, 1])
def test_a_template_starts_any_python_with_the_options_that_it_is_given(
    folder: Path, template: str, words: int
) -> None:
    """A program in a folder with spaces, or several words; paths come through whole, and the environment too."""
    python = f"apptainer exec --nv 'an image.sif' '{folder}/my python'" if words else f"{folder}/my python"
    env = {
        "PYTHON": python,
        "SRUN_OPTIONS": "--label --cpu-bind=none",
        "HOST_SUFFIX": "-ib0",
        "SLURM_ARRAY_TASK_ID": "0",
    }
    given = ["my spec.yaml", "name=a b"] if template == "ablation" else ["--config", "my config.yaml", "name=a b"]
    done = call(folder, template, *given, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    exported, *torchrun = (folder / "runs" / "torchrun").read_text().splitlines()
    assert exported == "ALL"
    assert {"--master-addr=n1-ib0", "--nnodes=2", "--nproc-per-node=1"} <= set(torchrun)
    trained = torchrun[torchrun.index("jobs.rank") + 1 :]
    assert trained == (["--config", f"{folder}/runs/a run.yaml"] if template == "ablation" else given)
    assert {"--label", "--cpu-bind=none"} <= set((folder / "runs" / "srun").read_text().splitlines())


def test_the_report_s_template_passes_on_what_it_is_given(folder: Path) -> None:
    done = call(folder, "report", "runs/a b", "runs/c", "--lang", "zh", "data.root=/data")
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "report").read_text().splitlines() == [
        "-m", "segtrain", "report", "--out", "runs/a b/report", "runs/a b", "runs/c", "--lang", "zh", "data.root=/data",
    ]  # fmt: skip


@pytest.mark.parametrize("template", ["train", "preemptible", "ablation"])
def test_a_template_does_not_go_on_where_a_line_of_env_sh_fails(folder: Path, tmp_path: Path, template: str) -> None:
    home = tmp_path / "home"
    (home / "slurm").mkdir(parents=True)
    (home / "jobs").symlink_to(ROOT / "jobs")
    (home / "slurm" / "node.sh").symlink_to(ROOT / "slurm" / "node.sh")
    text = (ROOT / "slurm" / "env.sh").read_text()
    assert "# module load cuda\n" in text
    env = {"SEGTRAIN_HOME": str(home), "SLURM_ARRAY_TASK_ID": "0"}
    for line, code in (("true", 0), ("echo no such module >&2; false", 2)):
        (home / "slurm" / "env.sh").write_text(text.replace("# module load cuda", line))
        done = call(folder, template, "--config", "a.yaml", env=env)
        assert done.returncode == code, done.stderr
    assert re.fullmatch(rf"no such module\nerror: {home}/slurm/env.sh, line \d+: failed\n", done.stderr)


def test_a_signal_that_ends_a_line_of_env_sh_is_heeded_and_no_failure(folder: Path, tmp_path: Path) -> None:
    """As `scancel --full` ends a program there: the step is told, and the job says that it was stopped."""
    home = tmp_path / "home"
    (home / "slurm").mkdir(parents=True)
    (home / "jobs").symlink_to(ROOT / "jobs")
    text = (ROOT / "slurm" / "env.sh").read_text()
    lines = "kill -USR2 $$; bash -c 'kill -USR2 $$'; touch went_on"
    (home / "slurm" / "env.sh").write_text(text.replace("# module load cuda", lines))
    done = call(folder, "train", "--config", "a.yaml", env={"SEGTRAIN_HOME": str(home)})
    assert (folder / "went_on").exists(), done.stderr
    assert "failed" not in done.stderr
    assert not (folder / "runs" / "torchrun").exists(), "it was asked to stop before the step"


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_template_requeues_for_a_container_that_cannot_and_not_what_is_cancelled(folder: Path, state: str) -> None:
    (folder / "my python").write_text(
        PYTHON.replace(
            "*jobs.batch\\ begin*)", '*jobs.batch\\ end*) touch "$SEGTRAIN_REQUEUE"; exit 75 ;;\n*jobs.batch\\ begin*)'
        )
    )
    for name, text in {"squeue": f"echo {state}", "scontrol": 'echo "$@" >>"$RUNS/scontrol"; echo n1'}.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    assert (
        call(folder, "preemptible", env={"SEGTRAIN_HOME": str(ROOT), "SLURM_SUBMIT_DIR": str(folder)}).returncode == 75
    )
    assert ("requeue 7" in (folder / "runs" / "scontrol").read_text().splitlines()) == (state == "RUNNING")
    assert not (folder / ".requeue-7").exists()
