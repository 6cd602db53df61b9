"""Batch scripts of jobs, run by bash with stand-ins for SLURM's commands and for the templates' Python."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# It gets USR1 although it is started with that ignored, as srun does and bash cannot. The code with which it ends then
# is that of a task that does not listen yet, which the first signal that is handed on ends.
PROGRAM = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit({code})); {ready}time.sleep({s})"
SRUN = f"""exec {sys.executable} -S -c '{PROGRAM.format(code=138, ready="", s=1)}'"""
# The child by which srun cancels its step should srun be killed.
SHEPHERD = """
(
	trap '' USR1 USR2 TERM
	while kill -0 $$ 2>/dev/null; do sleep 0.05; done
	echo cancel >>orders
) &
echo $$ >srun_pid
"""
# The Python of a template's job: the answers of jobs.batch.
BATCH = """
case "$3" in
run) sleep 0.1; echo "$PWD/run" ;;
begin) sleep 0.1; mkdir codes; echo "$PWD/codes" ;;
end) echo "$@" >>end; exit 75 ;;
esac
"""


def program(folder: Path, name: str, script: str) -> None:
    """A program of that name in the folder."""
    file = folder / name
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)


@dataclass
class Script:
    """A script that runs in a folder of its own."""

    folder: Path
    process: "subprocess.Popen[str]"

    def signal(self, number: signal.Signals, after_s: float) -> None:
        """Send it when its first line, which sets the traps, is that old."""
        caught = 0
        while not caught & 1 << (number - 1) and self.process.poll() is None:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            caught = int(status.split("SigCgt:")[1].split()[0], 16)
            time.sleep(0.005)
        time.sleep(after_s)
        self.process.send_signal(number)

    @property
    def end(self) -> int:
        """Its exit code."""
        return self.process.wait(30)

    def wrote(self, name: str) -> list[str]:
        """The lines of a file in its folder."""
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []


Start = Callable[[str], Script]


def starting(tmp_path: Path) -> Iterator[Start]:
    """Runs a script by its text, each in a folder of its own; all are ended afterwards."""
    for name, body in {
        "srun": SRUN,
        "squeue": "echo RUNNING",
        "scontrol": '[ "$1" = show ] && echo n1 || echo "$@" >>orders',
        "python": BATCH,
    }.items():
        program(tmp_path, name, body)
    scripts: list[Script] = []
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SEGTRAIN_HOME": str(ROOT), "PYTHON": str(tmp_path / "python"),
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1",
    }  # fmt: skip

    def run(text: str) -> Script:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / "script").write_text(text)
        with (folder / "output").open("w") as output:
            process = subprocess.Popen(
                ["bash", "script"], cwd=folder, env=environment, text=True, stdout=output, stderr=subprocess.STDOUT
            )
        scripts.append(begun := Script(folder, process))
        return begun

    yield run
    for script in scripts:
        script.process.kill()
        script.process.wait()
