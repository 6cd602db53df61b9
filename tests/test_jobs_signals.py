"""Signals at whatever moment to batch scripts and to the tasks of their steps, with stand-ins for SLURM's commands."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from batch_scripts import PROGRAM, ROOT, SHEPHERD, Script, Start, program, starting
from trainings import gone

from jobs import resources, sbatch, submission
from jobs.history import History
from segtrain.config import Config

MOMENTS_S = [0.05 * count for count in range(24)]
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    yield from starting(tmp_path)


def signalled_at_every_moment(start: Start, text: str, number: signal.Signals) -> list[Script]:
    """Scripts by that text, one for each moment."""

    def signalled(moment_s: float) -> Script:
        script = start(text)
        script.signal(number, moment_s)
        return script

    with ThreadPoolExecutor(len(MOMENTS_S)) as pool:
        return list(pool.map(signalled, MOMENTS_S))


@pytest.mark.law("L14")
@pytest.mark.parametrize("number", SIGNALS)
def test_no_signal_ends_a_script_whose_step_has_not_begun_and_the_job_comes_back(
    tmp_path: Path, tiny: Config, start: Start, number: signal.Signals
) -> None:
    """At every 50 ms from the script's first line on. Once the step has ended well it need not come back."""
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    slow = resources.Resources(setup=("sleep 0.2",))
    text = sbatch.script(submission.create(cfg.runs_dir, "tiny", [cfg], slow), "tiny", slow)
    scripts = signalled_at_every_moment(start, text, number)
    ends = [(script.end, script.wrote("orders")) for script in scripts]
    assert set(map(str, ends)) <= {str((75, ["requeue 7"])), str((0, []))}, ends
    assert ends[0] == (75, ["requeue 7"])


@pytest.mark.law("L8")
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_the_script_alone_reaches_the_step_which_decides(
    tmp_path: Path, tiny: Config, start: Start, number: signal.Signals
) -> None:
    ready = 'open("ready", "w").close(); '
    program(tmp_path, "srun", f"exec {sys.executable} -S -c '{PROGRAM.format(code=75, ready=ready, s=30)}'")
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources())
    script = start(sbatch.script(made, "tiny", made.resources))
    while not (script.folder / "ready").exists():
        time.sleep(0.02)
    script.process.send_signal(number)
    assert script.end == 75
    assert script.wrote("orders") == [], "the step itself has asked for the requeue, or was asked to stay away"


@pytest.mark.law("L8")
def test_a_script_does_not_wait_for_its_step_where_slurm_ends_the_job(
    tmp_path: Path, tiny: Config, start: Start
) -> None:
    """SLURM tells the steps itself, and srun, if it lives on, would take the next start's step for its own."""
    ready = 'open("ready", "w").close(); '
    srun = f"exec {sys.executable} -S -c '{PROGRAM.format(code=75, ready=ready, s=8)}'"
    program(tmp_path, "srun", f"{SHEPHERD}\n{srun}")
    program(tmp_path, "squeue", "echo COMPLETING")
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources())
    script = start(sbatch.script(made, "tiny", made.resources))
    while not (script.folder / "ready").exists():
        time.sleep(0.02)
    script.process.send_signal(signal.SIGTERM)
    assert script.process.wait(4) == 75
    time.sleep(0.3)
    assert gone(script.wrote("srun_pid")[0]), "also where SLURM does not end it with the script"
    assert script.wrote("orders") == [], "it comes back by SLURM, or is cancelled"


@pytest.mark.law("L14")
def test_a_job_whose_step_is_killed_before_it_can_say_anything_comes_back_three_times(
    tmp_path: Path, tiny: Config, start: Start
) -> None:
    """Booked or not. Where the step has decided, a process of it that is killed later changes nothing."""
    program(tmp_path, "srun", "kill -KILL $$")
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    made = submission.create(cfg.runs_dir, "tiny", [cfg], resources.Resources())
    made.keep(runs={"tiny": "7"})
    text = sbatch.script(made, "tiny", made.resources)
    history, ends = History(made.run("tiny")), []
    for restart in range(4):
        made.run("tiny").checkpoint(restart + 1).mkdir(parents=True)
        if restart % 2:
            history.begin("7")
        script = start(f"export SLURM_RESTART_COUNT={restart}\n{text}")
        ends.append((script.end, script.wrote("orders")))
    assert ends == [(75, ["requeue 7"])] * 3 + [(1, [])]
    assert [entry["event"] for entry in history.entries()] == ["start", "end"] * 4
    (history.start_folder("7", 4)).mkdir(parents=True)
    (history.start_folder("7", 4) / "over").touch()
    script = start(f"export SLURM_RESTART_COUNT=4\n{text}")
    assert (script.end, script.wrote("orders"), len(history.entries())) == (137, [], 8)


@pytest.mark.law("L14")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("template", ["preemptible", "ablation"])
def test_no_signal_ends_a_template_and_what_becomes_of_the_job_is_decided(
    start: Start, template: str, number: signal.Signals
) -> None:
    text = (ROOT / "slurm" / f"{template}.sbatch").read_text()
    text = text.replace("\n[ $# -gt 0 ]", "\nset -- spec.yaml\nSLURM_ARRAY_TASK_ID=0\n[ $# -gt 0 ]")
    scripts = signalled_at_every_moment(start, text, number)
    for script in scripts:
        assert (script.end, len(script.wrote("end"))) == (75, 1), script.wrote("output")
    asked = number.name.removeprefix("SIG")
    ends = [script.wrote("end")[0].split("--code ")[1].split(" --again")[0] for script in scripts]
    assert set(ends) <= {f"75 --asked {asked}", f"138 --asked {asked}", f"0 --asked {asked}", "0 --asked "}
    assert ends[0] == f"75 --asked {asked}"


@pytest.mark.law("L8")
@pytest.mark.parametrize(
    ("launcher", "code"),
    [
        ("trap 'echo TERM >>terms; sleep 0.3; exit 1' TERM; while :; do sleep 0.1; done", 75),
        ("exec sleep 20", 75),  # it imports: SIGTERM ends it
        ("trap 'echo TERM >>terms; exit 0' TERM; while :; do sleep 0.1; done", 0),  # it was done
    ],
)
def test_a_node_of_a_template_hands_one_sigterm_on_whatever_signals_come(
    tmp_path: Path, start: Start, launcher: str, code: int
) -> None:
    program(tmp_path, "launcher", launcher)
    (tmp_path / "codes").mkdir()
    node = f"""export SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SEGTRAIN_CODES={tmp_path}/codes
    set -- 1 n1 20000 1 {tmp_path}/launcher name=x
    {(ROOT / "slurm" / "node.sh").read_text()}"""
    scripts = [start(node) for _ in range(8)]
    for count, script in enumerate(scripts):
        script.signal(signal.SIGUSR2, 0.02 * count)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            time.sleep(0.02)
            if script.process.poll() is None:
                script.process.send_signal(number)
    for script in scripts:
        assert script.end in (code, 75)
        assert script.wrote("terms") in ([], ["TERM"])
    if code:
        assert (tmp_path / "codes" / "signal-0").read_text() == "SIGUSR2\n"


@pytest.mark.law("L14")
def test_a_signal_that_comes_before_python_listens_is_heeded_then(tmp_path: Path) -> None:
    """As the first process of a step leaves it: ignored by what does not listen, and pending."""
    code = """
import os, signal, sys, time
print("started", flush=True)
sys.stdin.readline()
from jobs.node import StopSignal
stop = StopSignal()
stop.listen()
time.sleep(0.1)
print(stop.name)
"""
    command = ["bash", "-c", sbatch.STEP, "step", sys.executable, "-c", code]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate("go on\n", timeout=60)[0] in ("SIGUSR2\n", "SIGTERM\n")
    assert process.returncode == 0
