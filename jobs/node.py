"""One node of a job: runs torchrun, has it save when a signal comes, and on the first node decides on a requeue.

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

from jobs import network, scheduler
from jobs.history import History
from jobs.rank import START_FOLDER, rank_ends
from jobs.rendezvous import Endpoint, Rendezvous, free_port
from jobs.requeue import Resubmission, StartEnd, conclude, start_end
from jobs.submission import Submission
from jobs.takeover import take_over
from segtrain.errors import RunError, SegtrainError
from segtrain.runtime import cpus
from segtrain.runtime.launcher import LOCAL_JOB, LOCAL_RESTART, env_int, port_taken, signal_when_parent_dies
from segtrain.runtime.visible import Formatter

log = logging.getLogger("jobs")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
ATTEMPTS = 3  # to start torchrun, each at another port, where somebody else takes the port first
POLL_EVERY_S = 0.2
REPORT_S = 30.0  # that the other launchers get to end after the first one failed


class StopSignal:
    """The first signal that asked this process to stop, None before. A handler only sets a flag."""

    def __init__(self) -> None:
        self.name: str | None = None

    def listen(self) -> None:
        """Handle signals from now on, in place of submitit's handlers. SIGCONT comes with SIGTERM and is ignored.

        The step's first process blocks them (jobs.sbatch), so those that came before Python listened come now.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCONT, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name


@dataclass(frozen=True)
class Node:
    """This node among those of its job."""

    index: int
    nodes: int
    host: str
    job: str
    restart: int

    @staticmethod
    def from_environment() -> "Node":
        """As SLURM describes it; the only node without SLURM, and for what was started in the foreground."""
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        if local := os.environ.get(LOCAL_JOB):
            return Node(0, 1, host, local, env_int(LOCAL_RESTART, 0))
        job = scheduler.this_job() or f"process-{os.getpid()}"
        return Node(env_int("SLURM_NODEID", 0), env_int("SLURM_JOB_NUM_NODES", 1), host, job, scheduler.restarts())


def resubmission(submission: Submission, job: str) -> Resubmission:
    """How to submit the run of a job again, where SLURM does not requeue."""
    words = (sys.executable, "-m", "jobs.resubmit", str(submission.root), job)
    return Resubmission(words, submission.resources.resubmit)


def train(root: str, name: str, parent: int | None = None) -> None:
    """Train one run of the submission in `root` on this node; ends the process with the exit code unless it is 0.

    With `parent`, the process that started this one in the foreground: saves and leaves when that is gone.
    """
    stop = StopSignal()
    stop.listen()
    if parent is not None:
        signal_when_parent_dies(signal.SIGTERM, parent)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(asctime)s jobs: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    try:
        code = Start(Submission(Path(root)), name, Node.from_environment(), stop).run()
    except SegtrainError as error:
        log.error("error: %s", error)
        code = error.exit_code
    if code:
        sys.exit(code)


class Start:
    """One start of a run's job, as one of its nodes sees it."""

    def __init__(self, submission: Submission, name: str, node: Node, stop: StopSignal) -> None:
        self.submission = submission
        self.name = name
        self.node = node
        self.stop = stop
        self.history = History(submission.run(name))
        # Of no effect where the job has begun the run already; a job that it was resubmitted as goes on.
        self._fresh = bool(submission.record.get("fresh")) and len(self.history.line(node.job)) == 1
        folder = self.history.start_folder(node.job, node.restart)
        leads = node.nodes > 1 and node.index == 0
        host = network.address(node.host, submission.resources) if leads else node.host
        meet_s = submission.resources.meet_s if leads else float("inf")
        self.rendezvous = Rendezvous(folder, node.index, node.nodes, host, meet_s)

    def run(self) -> int:
        """Train; on the first node, decide what becomes of the job. Raises RunError: the job makes no progress."""
        node = self.node
        where = f"node {node.index} of {node.nodes} ({node.host})"
        log.info("%s: %s, job %s, restart %d", self.name, where, node.job, node.restart)
        self.rendezvous.open()
        if node.index:
            return self._follow()
        if "members" in self.submission.record and scheduler.this_job() == node.job:
            scheduler.rename(node.job, self.name)
        if take_over(self.history.run, self._stopping):
            self._begin()
            end = self._lead()
        else:
            self.rendezvous.leave()
            end = StartEnd(1, [], self.stop.name, held=True)
        code, sentence = conclude(self.history, node.job, end, resubmission(self.submission, node.job))
        log.info("%s: %s (exit code %d)", self.name, sentence, code)
        return code

    def _begin(self) -> None:
        """Book the start. Raises RunError: the job makes no progress; the other nodes are told that there is none."""
        try:
            self.history.begin(self.node.job, self._fresh)
        except RunError:
            self.rendezvous.leave()
            raise

    def _lead(self) -> StartEnd:
        """Run torchrun on the first node, at another port if the one was taken; how the start ended."""
        for attempt in range(ATTEMPTS):
            endpoint = self.rendezvous.offer(attempt, free_port(self.node.host))
            code = self._torchrun(endpoint, attempt)
            ranks = rank_ends(self.rendezvous.folder)
            if not code or ranks or self.stop.name or not (self.node.nodes > 1 and port_taken(endpoint.port)):
                break
            log.warning("port %d was taken by another process in between; trying another", endpoint.port)
        # SLURM kills a step that it ends within KillWait: then there is no time to look for the others.
        lost = self.rendezvous.missing(attempt, REPORT_S, self._stopping) if code and not ranks else []
        self.rendezvous.leave()
        return start_end(self.rendezvous.folder, code, self.stop.name, [f"node {index}" for index in lost])

    def _follow(self) -> int:
        """Run torchrun on another node, where the first one listens; the first one decides what becomes of the job."""
        for attempt in range(ATTEMPTS):
            endpoint = self.rendezvous.await_endpoint(attempt, self._stopping)
            if endpoint is None:
                break
            self.rendezvous.report(attempt, self._torchrun(endpoint, attempt))
        return 0

    def _stopping(self) -> bool:
        return self.stop.name is not None

    def _torchrun(self, endpoint: Endpoint, attempt: int) -> int:
        """Run torchrun to its end on this node; its exit code."""
        environment = {
            "OMP_NUM_THREADS": str(cpus.of_rank(self.submission.processes(self.name))),
            **os.environ,
            START_FOLDER: str(self.rendezvous.folder),
            "SEGTRAIN_COMMIT": self.submission.record["commit"] or "",
            "PET_SHUTDOWN_TIMEOUT": str(self.submission.resources.save_s),
        }
        process = subprocess.Popen(
            self._command(endpoint),
            env=environment,
            start_new_session=True,
            preexec_fn=_prepare_child,
        )
        asked_to_stop = False
        while (code := process.poll()) is None:
            self.rendezvous.beat()
            if silent := self.rendezvous.silent():
                log.warning("no heartbeat of node %s: it is gone", silent)
                process.kill()  # its ranks notice, and cannot save without the others
            elif absent := self.rendezvous.absent():
                log.warning("node %s has not begun within %g s: it is gone", absent, self.rendezvous.meet_s)
                process.kill()
            elif self.stop.name and not asked_to_stop:
                asked_to_stop = True
                log.info("%s: telling the training to save and leave", self.stop.name)
                process.terminate()
            elif self.node.index and self.rendezvous.endpoint(attempt + 1):
                process.terminate()
            time.sleep(POLL_EVERY_S)
        return code

    def _command(self, endpoint: Endpoint) -> list[str]:
        several_nodes = [
            f"--nnodes={self.node.nodes}",
            f"--node-rank={self.node.index}",
            f"--master-addr={endpoint.host}",
            f"--master-port={endpoint.port}",
        ]
        return [
            *(sys.executable, "-m", "jobs.launch"),
            *(several_nodes if self.node.nodes > 1 else []),
            f"--nproc-per-node={self.submission.processes(self.name)}",
            *("-m", "jobs.rank"),
            *(["--fresh"] if self._fresh else []),
            *("--config", str(self.submission.config(self.name))),
        ]


def _prepare_child() -> None:
    """In the child, before torchrun: USR1 and USR2, which SLURM may send to all processes, must not end it."""
    signal_when_parent_dies(signal.SIGTERM)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
