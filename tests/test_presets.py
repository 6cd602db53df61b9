"""What a preset or an option asks of the cluster, read from the script that sbatch would be given, run by bash."""

import argparse
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import history, network, node, requeue, resources, sbatch, scheduler, submission
from jobs.rank import RankEnd
from jobs.submission import Submission
from segtrain.config import Config, read_yaml
from segtrain.errors import ConfigError, LaunchError, StopReason

SITES = ("perlmutter", "alliance", "juwels")


def script(preset: Mapping[str, Any], count: int = 1, root: str = "/runs/.jobs/a/001") -> str:
    return sbatch.script(Submission(Path(root)), "a", resources.from_tree(preset, "mine"), count)


def run_by_bash(folder: Path, text: str) -> list[str]:
    """The words that srun is given, with PATH beginning with the folder; the variables that it sees lie in env."""
    (folder / "srun").write_text(f"#!/bin/bash\nprintf '%s\\n' \"$@\"; env >'{folder}/env'\n")
    (folder / "srun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SCRATCH": "/scratch/me"}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_gpus_have_types() -> None:
    typed = resources.from_tree({"gpus_per_node": "a100:4"}, "mine")
    assert (typed.gpus, typed.processes) == (4, 4)
    assert resources.from_tree(resources.to_tree(typed), "again") == typed
    assert "#SBATCH --gpus-per-node=a100:4\n" in script({"gpus_per_node": "a100:4"})
    for wrong in ("a100", "-1", "4:a100", True):
        with pytest.raises(ConfigError, match=r"mine: gpus_per_node=.*write a number, or a type and a number such as"):
            resources.from_tree({"gpus_per_node": wrong}, "mine")


@pytest.mark.parametrize("count", [1, 3])
def test_a_preset_gives_options_to_srun_and_words_to_start_python_with(tmp_path: Path, count: int) -> None:
    preset = {
        "cpus_per_node": 8,
        "srun": {"container-image": "my image.sqsh", "container-mounts": "/a:/b", "label": True, "cpu_bind": "none"},
        "python": "apptainer exec --nv $SCRATCH/image.sif python",
    }
    words = run_by_bash(tmp_path, script(preset, count))
    command = words.index("apptainer")
    assert words[command : command + 7] == ["apptainer", "exec", "--nv", "/scratch/me/image.sif", "python", "-u", "-m"]
    given = {"--container-image=my image.sqsh", "--container-mounts=/a:/b", "--label", "--cpu-bind=none"}
    assert given | {"--cpus-per-task=8", "--export=ALL"} <= set(words[:command])
    for key in ("output", "ntasks"):
        with pytest.raises(ConfigError, match=f"mine: srun=.*{key} is not for a preset to set"):
            resources.from_tree({"srun": {key: "x"}}, "mine")


def test_a_preset_sets_the_variables_of_the_network(tmp_path: Path) -> None:
    preset = {"interface": "ib0", "env": {"NCCL_SOCKET_IFNAME": "ib1", "NCCL_DEBUG": "INFO", "OWN": "two words"}}
    run_by_bash(tmp_path, script(preset))
    seen = (tmp_path / "env").read_text().splitlines()
    assert {"GLOO_SOCKET_IFNAME=ib0", "NCCL_SOCKET_IFNAME=ib1", "NCCL_DEBUG=INFO", "OWN=two words"} <= set(seen)
    with pytest.raises(ConfigError, match="mine: env"):
        resources.from_tree({"env": {"NO NAME": 1}}, "mine")


def test_the_first_node_is_reached_where_the_preset_says(tmp_path: Path, tiny: Config) -> None:
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    for preset, host in (({}, "n1"), ({"host_suffix": "-ib0"}, "n1-ib0"), ({"interface": "lo"}, "127.0.0.1")):
        made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.from_tree(preset, "mine"))
        start = node.Start(made, "tiny", node.Node(0, 2, "n1", "7", 0), node.StopSignal())
        assert start.rendezvous.host == host
    with pytest.raises(LaunchError, match="interface=ib9: n1 has no such network interface with an address; it has lo"):
        network.address("n1", resources.Resources(interface="ib9"))


def test_the_job_for_the_report_asks_for_no_gpu_whatever_the_preset_says() -> None:
    preset = {
        "nodes": 2,
        "gpus_per_node": "a100:4",
        "constraint": "gpu",
        "slurm": {"gres": "gpu:4,nvme:1", "cpus-per-gpu": 8, "gpus": 8, "tres-per-task": "gres/gpu:1"},
        "srun": {"gpus-per-task": 4, "gpu-bind": "closest", "label": True},
        "report": {"constraint": "cpu", "mem": "8G"},
    }  # fmt: skip
    asked = resources.from_tree(preset, "mine")
    report = sbatch.script(Submission(Path("/runs/.jobs/a/001")), "a-report", asked.for_report)
    assert "gpu" not in report
    assert {"#SBATCH --gres=nvme:1", "#SBATCH --constraint=cpu", "#SBATCH --mem=8G", "#SBATCH --nodes=1"} <= set(
        report.splitlines()
    )
    assert "--label" in report
    with pytest.raises(ConfigError, match=r"mine: report: unknown key node; did you mean nodes\?"):
        resources.from_tree({"report": {"node": 2}}, "mine")


@pytest.mark.parametrize("site", SITES)
def test_a_preset_of_a_site_says_that_it_was_not_run_there(site: str) -> None:
    path = next(path for path in resources.presets() if path.stem == site)
    opening = " ".join(line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# "))
    assert "public documentation" in opening
    assert "not run there" in opening
    preset = read_yaml(path)
    asked = resources.from_tree(preset, site)
    assert asked.processes == 4
    assert "gpu" not in sbatch.script(Submission(Path("/r/.jobs/a/001")), "a", asked.for_report).split("# setup")[0]


@pytest.mark.parametrize("count", [1, 3])
def test_folders_with_spaces_and_percent_signs_reach_slurm_whole(tmp_path: Path, count: int) -> None:
    root = "/my runs/50%-done/100%/.jobs/a/001"
    text = script({"python": "python"}, count, root)
    job = "%A_%a" if count > 1 else "%j"
    assert f"#SBATCH --output='/my runs/50%%-done/100%%/.jobs/a/001/logs/{job}_0_log.out'\n" in text
    words = run_by_bash(tmp_path, text)
    last = [word for word in words if word.startswith("--output")][-1]
    assert last == f"--output=/my runs/50%%-done/100%%/.jobs/a/001/logs/{job}_%t_log.out"
    assert words[-1] == f"{root}/logs"
    assert f"PYTHONPATH={root}/code" in (tmp_path / "env").read_text()
    with pytest.raises(LaunchError, match=r"/50%all/.*: submitit takes %a for part of a job's id; set runs_dir to"):
        script({}, root="/runs/50%all/.jobs/a/001")


@pytest.mark.parametrize("about", [{}, {"members": []}])
def test_an_element_of_an_array_carries_the_name_of_its_run(
    tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch, about: dict[str, Any]
) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "scontrol").write_text(f"#!/bin/sh\necho $* > {folder}/asked.tmp; mv {folder}/asked.tmp {folder}/asked\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    made = submission.create(cfg.runs_dir, "spec", [cfg], resources.Resources(), **about)
    start = node.Start(made, "tiny", node.Node(0, 1, "n1", "12_3", 0), node.StopSignal())
    monkeypatch.setattr(start, "_torchrun", lambda *_: 0)
    assert start.run() == 0
    end_s = time.monotonic() + (10 if about else 0.2)
    while not (folder / "asked").exists() and time.monotonic() < end_s:
        time.sleep(0.01)
    asked = (folder / "asked").read_text() if (folder / "asked").exists() else ""
    assert asked == ("update JobId=12_3 JobName=tiny\n" if about else "")


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_job_in_a_container_without_slurm_is_requeued_by_its_batch_script(
    tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Not a cancelled one, of which the container knows nothing."""
    cfg = replace(tiny, runs_dir=str(tmp_path / "my runs"))
    made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources(python="podman run image python"))
    asked = made.logs / "requeue-7"
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "srun": 'env > "$FOLDER/env"; touch "$SEGTRAIN_REQUEUE"; exit 75',
        "squeue": f"echo {state}",
        "scontrol": 'echo $* > "$FOLDER/requeued"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "FOLDER": str(folder), "SLURM_JOB_ID": "7"}
    text = sbatch.script(made, "tiny", made.resources)
    assert subprocess.run(["bash", "-c", text], env=environment, check=False).returncode == 75
    assert f"{scheduler.REQUEUE}={asked}" in (folder / "env").read_text()
    assert (folder / "requeued").exists() == (state == "RUNNING")
    assert not asked.exists()

    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(scheduler.REQUEUE, str(asked))
    starts = history.History(made.run("tiny"))
    code, _ = requeue.conclude(starts, "7", requeue.StartEnd(1, [RankEnd(75, StopReason.SIGUSR2)], signal="SIGUSR2"))
    assert (code, starts.last("7")["how"], asked.exists()) == (75, "requeued", True)


def test_options_add_to_a_preset() -> None:
    parser = argparse.ArgumentParser()
    resources.add_options(parser)
    words = ["--cluster", "juwels", "--srun", "label", "--env", "NCCL_DEBUG=INFO", "--python", "podman run x python"]
    asked = resources.of(parser.parse_args(words))
    assert asked.srun == {"cpu-bind": "none", "label": True}
    assert asked.env["NCCL_DEBUG"] == "INFO"
    assert asked.env["NCCL_SOCKET_IFNAME"] == "ib0"
    assert (asked.python, asked.slurm) == ("podman run x python", {"gres": "gpu:4"})
    for words in (["--srun", "=x"], ["--env", "A B=1"]):
        with pytest.raises(ConfigError, match=f"^{words[0]} {words[1]}: not "):
            resources.of(parser.parse_args(words))
