"""What runs on every node of a job: torchrun in a process of its own, told to stop by any signal, requeued if worth it.

submitit calls `train` again from its beginning when a job comes back; the training resumes by itself. torchrun gets one
SIGTERM however many signals come (a third would make it drop its workers before they have saved), and never one that
would kill it unhandled.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jobs import scheduler
from jobs.history import Book
from jobs.rank import CODES
from jobs.rendezvous import Endpoint, Meeting, free_port
from jobs.requeue import Ended, settle, told_in
from jobs.submission import Submission
from segtrain.errors import SegtrainError
from segtrain.runtime.launcher import LOCAL_JOB, LOCAL_RESTART, env_int, port_taken, signal_when_parent_dies

log = logging.getLogger("jobs")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
ATTEMPTS = 3  # at a port that nobody took in between
LOOK_EVERY_S = 0.2
REPORT_S = 30.0  # between the first launcher that failed and the others
LOCK_S = 120.0  # what is left of the start before may hold the run for so long


class Asked:
    """The first signal that asked this process to stop. A handler only sets a flag."""

    def __init__(self) -> None:
        self.name: str | None = None

    def listen(self) -> None:
        """Handle signals from now on, in place of submitit's handlers; SIGCONT comes with SIGTERM and means nothing."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCONT, lambda *_: None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name


@dataclass(frozen=True)
class Place:
    """This node among those of the job, as SLURM tells it."""

    index: int
    nodes: int
    host: str
    job: str
    restart: int

    @staticmethod
    def here() -> "Place":
        """From the environment; alone without SLURM, or when it was started in the foreground."""
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        if local := os.environ.get(LOCAL_JOB):
            return Place(0, 1, host, local, env_int(LOCAL_RESTART, 0))
        job = scheduler.this_job() or f"process-{os.getpid()}"
        return Place(env_int("SLURM_NODEID", 0), env_int("SLURM_JOB_NUM_NODES", 1), host, job, scheduler.restarts())


def train(root: str, name: str, parent: int | None = None) -> None:
    """Train one run of the submission in `root` on this node; ends the process with the exit code unless it is 0.

    With `parent`, the process that started this one in the foreground: saves and leaves when that is gone.
    """
    asked = Asked()
    asked.listen()
    if parent is not None:
        signal_when_parent_dies(signal.SIGTERM)
        if os.getppid() != parent:  # gone before the line above
            asked.name = "SIGTERM"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s jobs: %(message)s", stream=sys.stderr, force=True)
    try:
        code = Start(Submission(Path(root)), name, Place.here(), asked).run()
    except SegtrainError as error:
        log.error("error: %s", error)
        code = error.exit_code
    if code:
        sys.exit(code)


class Start:
    """One start of a run's job, as one of its nodes sees it."""

    def __init__(self, submission: Submission, name: str, place: Place, asked: Asked) -> None:
        self.submission, self.name, self.place, self.asked = submission, name, place, asked
        self.run_directory = submission.run(name)
        self._fresh = bool(submission.record.get("fresh"))  # of no effect where the job has begun the run already
        self.book = Book(self.run_directory)
        folder = self.book.start_folder(place.job, place.restart)
        self.meeting = Meeting(folder, place.index, place.nodes, place.host)

    def run(self) -> int:
        """Train; on the first node, decide what becomes of the job. Raises RunError: it has not gained anything."""
        place = self.place
        log.info(
            "%s: node %d of %d (%s), job %s, restart %d",
            self.name, place.index, place.nodes, place.host, place.job, place.restart,
        )  # fmt: skip
        self.meeting.open()
        if place.index:
            return self._follow()
        self._wait_for_the_lock()
        self.book.begin(place.job, self._fresh)
        ended = self._lead()
        code, what = settle(self.book, place.job, ended)
        log.info("%s: %s (exit code %d)", self.name, what, code)
        return code

    def _wait_for_the_lock(self) -> None:
        """A start whose node was lost may live on a while; it ends by itself, or the run refuses this one."""
        end = time.monotonic() + LOCK_S
        while self.place.restart and self.run_directory.busy() and time.monotonic() < end and not self.asked.name:
            time.sleep(1.0)

    def _lead(self) -> Ended:
        """Start torchrun on the first node, at another port if the one was taken; how it ended."""
        for attempt in range(ATTEMPTS):
            endpoint = self.meeting.offer(attempt, free_port(self.place.host))
            code = self._torchrun(endpoint, attempt)
            ranks, _ = told_in(self.meeting.folder)
            if not code or ranks or self.asked.name or not (self.place.nodes > 1 and port_taken(endpoint.port)):
                break
            log.warning("port %d was taken by another process in between; trying another", endpoint.port)
        gone = self.meeting.missing(attempt, REPORT_S) if code and not ranks else []
        self.meeting.leave()
        ranks, words = told_in(self.meeting.folder)
        return Ended(code, ranks, self.asked.name, [f"node {node}" for node in gone], words)

    def _follow(self) -> int:
        """Do on another node what the first one says; the first one decides what becomes of the job."""
        for attempt in range(ATTEMPTS):
            endpoint = self.meeting.await_endpoint(attempt, lambda: self.asked.name is not None)
            if endpoint is None:
                break
            self.meeting.report(attempt, self._torchrun(endpoint, attempt))
        return 0

    def _torchrun(self, endpoint: Endpoint, attempt: int) -> int:
        """Run torchrun to its end on this node; its exit code."""
        environment = {
            "OMP_NUM_THREADS": "1", **os.environ, CODES: str(self.meeting.folder),
            "SEGTRAIN_COMMIT": self.submission.record["commit"] or "",
            "PET_SHUTDOWN_TIMEOUT": str(self.submission.resources.save_s),
            "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",
        }  # fmt: skip
        process = subprocess.Popen(
            self._command(endpoint), env=environment, start_new_session=True,
            preexec_fn=lambda: signal_when_parent_dies(signal.SIGTERM),
        )  # fmt: skip
        told = False
        while (code := process.poll()) is None:
            self.meeting.beat()
            silent = self.meeting.silent()
            if silent:
                log.warning("node %s has said nothing for too long: it is gone", silent)
                process.kill()  # its ranks notice, and cannot save without the others
            elif self.asked.name and not told:
                told = True
                log.info("%s: telling the training to save and leave", self.asked.name)
                process.terminate()
            elif self.place.index and self.meeting.endpoint(attempt + 1):
                process.terminate()
            time.sleep(LOOK_EVERY_S)
        return code

    def _command(self, endpoint: Endpoint) -> list[str]:
        place = self.place
        where = [
            f"--nnodes={place.nodes}", f"--node-rank={place.index}",
            f"--master-addr={endpoint.host}", f"--master-port={endpoint.port}",
        ]  # fmt: skip
        return [
            sys.executable, "-m", "torch.distributed.run", *(where if place.nodes > 1 else ["--standalone"]),
            f"--nproc-per-node={self.submission.processes(self.name)}", "-m", "jobs.rank",
            *(["--fresh"] if self._fresh else []), "--config", str(self.submission.config(self.name)),
        ]  # fmt: skip
