"""Submit to the virtual cluster as a user does, and wait for what must come of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import Cluster
from processes import descendants
from trainings import assert_same, state_of

from segtrain.config import Config, to_yaml

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 150.0


class Lab:
    """A user's folder on the cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.runs = cluster, folder, folder / "runs"
        self.env = {
            **cluster.env, "PYTHONPATH": str(ROOT), "SEGTRAIN_HOME": str(ROOT), "PYTHON": sys.executable, "NPROC": "2",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def give(self, cfg: Config) -> Path:
        """The config as a file, with runs in this folder."""
        file = self.folder / f"{cfg.name}.yaml"
        file.write_text(to_yaml(replace(cfg, runs_dir=str(self.runs))))
        return file

    def call(self, *command: str | Path, code: int = 0) -> str:
        """What a command prints; it must end with that code."""
        done = subprocess.run(
            [str(part) for part in command], cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def jobs(self, command: str, *arguments: str | Path, code: int = 0) -> str:
        return self.call(sys.executable, "-m", f"jobs.{command}", *arguments, code=code)

    def submit(self, cfg: Config, *options: str) -> str:
        """A job through submitit; its id."""
        said = self.jobs("submit", "--partition", "low", *options, "--config", self.give(cfg))
        return said.split("Submitted job ")[1].split(":")[0]

    def sbatch(self, template: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> str:
        """A job by one of the templates; its id."""
        options = ("--parsable", "--partition=low", "--cpus-per-task=2", *options)
        return self.call("sbatch", *options, ROOT / "slurm" / template, *arguments).strip()

    def sbatch_wrap(self, line: str, *options: str) -> str:
        """A job that is no training; its id."""
        return self.call("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={line}").strip()

    def state(self, job: str) -> str:
        """The state of a job in the queue or in slurmctld's memory of it."""
        for line in self.cluster.tool("scontrol", "show", "job", job).split():
            if line.startswith("JobState="):
                return line.removeprefix("JobState=")
        return "unknown"

    def shown(self, job: str, field: str) -> str:
        for word in self.cluster.tool("scontrol", "show", "job", job).split():
            if word.startswith(f"{field}="):
                return word.partition("=")[2]
        return ""

    def seconds(self, job: str) -> int:
        """How long a job has run."""
        hours, minutes, seconds = self.shown(job, "RunTime").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + int(seconds)

    def outcome(self, run: str) -> dict[str, object]:
        return dict(json.loads((self.runs / run / "outcome.json").read_text()))

    def until(self, what: str, test: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait for something that must come."""
        end = time.monotonic() + patience_s
        while not test():
            assert time.monotonic() < end, f"not within {patience_s} s: {what}\n{self.told()}"
            time.sleep(0.1)

    def until_over(self, job: str, patience_s: float = PATIENCE_S) -> str:
        """The state in which a job leaves for good."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        # A job that is being requeued shows a final state for a moment.
        self.until(f"job {job} ends", lambda: self.state(job) in over and not self.queued(job), patience_s)
        return self.state(job)

    def ends_the_same(self, cfg: Config, job: str, left_alone: dict[str, Any]) -> None:
        """The job ends, and its run bitwise as the one that was left alone."""
        assert self.until_over(job) == "COMPLETED", self.told()
        assert_same(state_of(self.runs / cfg.name), left_alone)

    def queued(self, job: str) -> bool:
        return bool(self.cluster.tool("squeue", "-h", "-j", job, "-o", "%T").strip())

    def step(self, run: str) -> int:
        """The newest step that a run wrote down."""
        file = self.runs / run / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return max((int(json.loads(line)["step"]) for line in lines if line.endswith("}")), default=0)

    def until_step(self, run: str, step: int) -> None:
        self.until(f"{run} is at step {step}", lambda: self.step(run) >= step)

    def ranks(self, run: str = "") -> list[int]:
        """Process ids of the ranks on all nodes, of all runs or of one."""
        found = []
        for node in self.cluster.nodes:
            for pid, _ in descendants(self.cluster.procs[node][0]):
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    rank = b"jobs.rank" in words and b"jobs.launch" not in words
                    if rank and words[-2].decode().endswith(f"{run}.yaml"):
                        found.append(pid)
        return found

    def kill_ranks(self, number: signal.Signals, run: str = "") -> None:
        for pid in self.ranks(run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def history(self, run: str) -> list[dict[str, object]]:
        folder = self.runs / run
        file = folder.parent / ".jobs" / folder.name / "starts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def starts(self, run: str) -> int:
        return sum(entry["event"] == "start" for entry in self.history(run))

    def log_of(self, job: str) -> str:
        """All that a job has said, in all of its starts."""
        [log] = [*self.runs.glob(f".jobs/*/*/logs/{job}_0_log.out"), *self.folder.glob(f"*-{job}.out")]
        return log.read_text(errors="replace")

    def told_since_start(self, job: str) -> str:
        """What the first node of a job submitted through submitit has said since it was started the last time."""
        return self.log_of(job).rpartition(f", job {job}, restart ")[2]

    def told(self) -> str:
        """The ends of all logs, for a test that fails."""
        logs = [*self.folder.glob("*.out"), *self.runs.glob(".jobs/*/*/logs/*.out")]
        texts = [f"--- {log}\n{log.read_text(errors='replace')[-3000:]}" for log in sorted(logs)]
        return "\n".join([self.cluster.tool("squeue"), self.cluster.tool("sinfo", "-N", "-l"), *texts])
