"""An ablation as one array: two at a time, and the same command again runs only what is missing or has failed."""

import csv
import json
import signal
from pathlib import Path

import pytest
from lab import ROOT, Lab

from segtrain.config import Config

LOSSES = ("dice", "bce", "focal", "jaccard")
SPEC = """
name: loss
base: base.yaml
folds: [0, 1]
variants:
  dice:
  bce: {loss: bce}
  focal: {loss: focal}
  jaccard: {loss: jaccard, precision: tf32}
"""  # tf32 is refused on CPUs, when the training starts


def rows(lab: Lab) -> dict[str, dict[str, str]]:
    with (lab.runs / "loss" / "results.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def submitted(said: str) -> dict[str, str]:
    """Run to job id."""
    lines = [line.split() for line in said.splitlines() if line.startswith("Submitted job")]
    return {Path(words[3]).name: words[2].rstrip(":") for words in lines}


def table_of(said: str) -> str:
    """The job that writes table and report."""
    return said.split("(job ")[1].split(")")[0]


def shown(lab: Lab) -> str:
    """The report's page."""
    return (lab.runs / "loss" / "report" / "index.html").read_text()


@pytest.mark.law("L12")
def test_an_array_is_resubmitted_where_it_failed(lab: Lab, brief: Config) -> None:
    lab.give(brief)
    spec = lab.folder / "spec.yaml"
    spec.write_text(SPEC)
    command = ("ablate", spec, "--max-parallel", "2", "--partition", "low", "data.split=kfold")
    said = lab.jobs(*command, "--slurm", "hold")
    jobs, table = submitted(said), table_of(said)
    assert sorted(jobs) == sorted(f"{loss}-fold{fold}-seed42" for loss in LOSSES for fold in (0, 1))
    again = lab.jobs(*command)
    assert "0 finished, 8 in the queue" in again
    assert "(job " not in again, "one that makes the report is waiting"
    listed = {row["run"]: row for row in json.loads(lab.jobs("status", lab.runs, "--json"))}
    waiting = {(row["kind"], row["state"], row["reason"]) for row in listed.values()}
    assert waiting == {("run", "pending", "JobHeldUser"), ("report", "pending", "JobHeldUser")}
    array = next(iter(jobs.values())).partition("_")[0]
    for job in (array, table):
        lab.call("scontrol", "release", job)
    victim = "dice-fold0-seed42"
    lab.until("the first run is being trained", lambda: bool(lab.ranks(victim)))
    lab.kill_ranks(signal.SIGKILL, victim)
    most = 0

    def over() -> bool:
        nonlocal most
        states = lab.cluster.tool("squeue", "-h", "-r", "-j", array, "-o", "%T").split()
        most = max(most, states.count("RUNNING"))
        return not states

    lab.until("the array ends", over, 300)
    assert most == 2
    assert lab.until_over(table, 300) == "COMPLETED"
    assert victim in shown(lab)
    failed = sorted(run for run, row in rows(lab).items() if row["state"] != "finished")
    assert failed == ["jaccard-fold0-seed42", "jaccard-fold1-seed42"]
    assert [lab.shown(jobs[run], "ExitCode") for run in failed] == ["2:0", "2:0"]
    killed, finished = (entry for entry in lab.history(f"loss/{victim}") if entry["event"] == "end")
    assert (killed["how"], finished["how"]) == ("requeued", "finished")
    assert str(killed["why"]).startswith("rank 0 on ")
    assert "precision=tf32 is a mode of CUDA devices" in lab.jobs("logs", failed[0])

    spec.write_text(SPEC.replace(", precision: tf32", ""))
    said = lab.jobs(*command)
    assert sorted(submitted(said)) == failed
    assert lab.until_over(table_of(said), 300) == "COMPLETED"
    assert {row["state"] for row in rows(lab).values()} == {"finished"}
    assert all(row["best_dsc"] and row["n"] for row in rows(lab).values())
    assert all(loss in shown(lab) for loss in LOSSES)
    assert 'class="card' in shown(lab)
    assert "Nothing to submit" in lab.jobs(*command)


@pytest.mark.law("L14")
def test_each_element_of_an_array_that_asks_for_it_comes_back_once(lab: Lab) -> None:
    """Also the one with the array's own id, which stands for all elements while others are in the queue."""
    script = lab.folder / "elements.sh"
    script.write_text(
        f"""#!/bin/bash
        echo "restart ${{SLURM_RESTART_COUNT:-0}} id $SLURM_JOB_ID" >>{lab.folder}/element-$SLURM_ARRAY_TASK_ID
        . {ROOT}/jobs/job.sh
        sleep 5
        [ -n "${{SLURM_RESTART_COUNT:-}}" ] || come_back "a test"
        """
    )
    options = ("--parsable", "--partition=low", "--requeue", "--array=0-2", "--output=/dev/null")
    array = lab.call("sbatch", *options, script).strip()
    lab.until("the array ends", lambda: not lab.queued(array))
    starts = [(lab.folder / f"element-{task}").read_text().split() for task in range(3)]
    assert [words[1::4] for words in starts] == [["0", "1"]] * 3
    assert sum(array in words[3::4] for words in starts) == 1


def test_the_templates_of_an_array_train_the_runs_of_the_spec_and_report_them(lab: Lab, brief: Config) -> None:
    lab.env["NPROC"] = "1"
    lab.give(brief)
    spec = lab.folder / "spec.yaml"
    spec.write_text("name: two\nbase: base.yaml\nvariants: {dice: {}, bce: {loss: bce}}\n")
    job = lab.sbatch("ablation.sbatch", spec, "evaluate.pictures=0", options=("--array=0-1",))
    report = lab.sbatch("report.sbatch", lab.runs / "two", options=(f"--dependency=afterany:{job}",))
    lab.until("the array ends", lambda: not lab.queued(job))
    states = {run: lab.outcome(f"two/{run}-seed42")["state"] for run in ("dice", "bce")}
    assert states == {"dice": "finished", "bce": "finished"}
    listed = {row["run"]: row for row in json.loads(lab.jobs("status", lab.runs, "--json"))}
    assert {(row["state"], row["slurm"]) for row in listed.values()} == {("finished", "COMPLETED")}
    assert lab.jobs("logs", "two/dice-seed42").startswith(f"dice-seed42: job {job}_0, restart 0\n")
    assert sorted(listed) == ["two/bce-seed42", "two/dice-seed42"]
    assert lab.until_over(report) == "COMPLETED", lab.told()
    page = (lab.runs / "two" / "report" / "index.html").read_text()
    assert all(f"{run}-seed42" in page for run in states)
    with (lab.runs / "two" / "report" / "results.csv").open() as file:
        assert {row["variant"] for row in csv.DictReader(file)} == states.keys()
