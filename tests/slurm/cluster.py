"""A real SLURM cluster of several nodes on this machine, for tests and to play with. Needs root; no systemd, no Docker.

Everything (munge key, sockets, MariaDB data, spools, logs, pids) lies under one directory; all listens on loopback.
Every node is one `slurmd -N nK` in its own UTS + PID + mount namespace: gethostname() is nK, nK resolves through a
private /etc/hosts, and killing the namespace's init is a true node crash (no orphans).
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cluster_files as text
from processes import alive, descendants, free_ports, listening, started

from segtrain.runtime.launcher import signal_when_parent_dies

PACKAGES = "slurmctld slurmd slurm-client slurmdbd munge mariadb-server"
FREEZER = Path("/sys/fs/cgroup/freezer")
TOOLS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "unshare")
DB_TOOLS = ("mariadbd", "mariadb-install-db", "slurmdbd")


@dataclass(frozen=True)
class Setup:
    """What the cluster is like."""

    nodes: int = 2
    prefix: str = "n"  # of the nodes' names; two clusters on one machine need two
    cpus: int = 4
    gpus: int = 2  # devices that do nothing
    mem_mb: int = 4000
    grace_s: int = 20  # GraceTime of partition low, which partition high preempts
    kill_wait_s: int = 10
    slurmd_timeout_s: int = 10
    ctl_parameters: str = "preempt_send_user_signal"
    accounting: bool = True
    stays: bool = False  # when the process that started it ends


def why_not() -> str | None:
    """Why this machine cannot run the cluster, None if it can."""
    os.environ["PATH"] += "" if "/usr/sbin" in os.environ["PATH"].split(":") else ":/usr/sbin:/sbin"
    if missing := [tool for tool in (*TOOLS, *DB_TOOLS) if not shutil.which(tool)]:
        return f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {PACKAGES}"
    if os.geteuid():
        return "the virtual nodes need root (namespaces)"
    if subprocess.run(["unshare", "--uts", "--pid", "--mount", "--fork", "true"], check=False).returncode:
        return "this machine does not allow namespaces (unshare)"
    return None


def proctrack() -> tuple[str, str]:
    """How SLURM may follow processes here, and why."""
    probe = FREEZER / f"segtrain-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return "linuxproc", f"{FREEZER} cannot be used ({error.strerror}): signals reach every process of a job"
    return "cgroup", "as in production: signals but KILL reach only a step's own task"


class Cluster:
    """The daemons below one directory; the object can be made anew from it."""

    def __init__(self, d: Path) -> None:
        self.d = d.absolute()
        self.state_file = self.d / "state.json"
        self.state: dict[str, Any] = json.loads(self.state_file.read_text()) if self.state_file.exists() else {}
        self.procs: dict[str, list[Any]] = self.state.setdefault("procs", {})
        self.env = dict(os.environ, SLURM_CONF=str(self.d / "slurm.conf"))
        self.stays = True
        self.children: list[subprocess.Popen[bytes]] = []

    @property
    def nodes(self) -> list[str]:
        return list(self.state.get("nodes", []))

    def start(self, setup: Setup) -> None:
        """Bring everything up; returns when all nodes are idle."""
        if problem := why_not():
            raise SystemExit(problem)
        if self.procs:
            self.stop()
        if (self.d / "slurm.conf").exists():
            shutil.rmtree(self.d)
        elif self.d.exists() and any(self.d.iterdir()):
            raise SystemExit(f"{self.d} holds something else; name another --dir")
        for sub in ("munge", "db", "ctld", "spool", "log", "etc"):
            (self.d / sub).mkdir(parents=True)
        self.d.chmod(0o755)
        self.stays = setup.stays
        nodes, ports = [f"{setup.prefix}{i + 1}" for i in range(setup.nodes)], free_ports(setup.nodes + 2)
        self.state = {"procs": {}, "nodes": nodes}
        self.procs, self.env["PATH"] = self.state["procs"], os.environ["PATH"]
        self._write_files(setup, ports)
        install = setup.accounting and self._install_database()
        self._start_munge()
        if install:
            self._start_accounting(install, ports[1])
        self._wait("munged", (self.d / "munge/socket").exists, ["munged"])
        self._spawn("slurmctld", ["slurmctld", "-D", "-c"])
        for name in nodes:
            self.boot(name)
        self._wait("slurmctld", lambda: listening(ports[0]), ["slurmctld"])
        self._wait("nodes", lambda: self.node_states().count("idle") == len(nodes), ["slurmctld", *nodes])

    def _write_files(self, setup: Setup, ports: list[int]) -> None:
        host, nodes = socket.gethostname(), self.nodes
        lines = [
            text.node_line(n, port, setup.cpus, setup.mem_mb, setup.gpus)
            for n, port in zip(nodes, ports[2:], strict=True)
        ]
        values: dict[str, Any] = {
            "d": self.d, "host": host, "ctl_port": ports[0], "dbd_port": ports[1], "node_port": ports[2],
            "nodes": "\n".join(lines), "proctrack": proctrack()[0], "ctl_parameters": setup.ctl_parameters,
            "slurmd_timeout": setup.slurmd_timeout_s, "kill_wait": setup.kill_wait_s, "grace": setup.grace_s,
        }  # fmt: skip
        values["accounting"] = (text.ACCOUNTING if setup.accounting else text.NO_ACCOUNTING).format(**values)
        (self.d / "slurm.conf").write_text(text.SLURM_CONF.format(**values))
        for i in range(setup.gpus):  # SLURM drops a gpu that has no File; copies of /dev/null do
            os.mknod(self.d / f"etc/gpu{i}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        files = f"{self.d}/etc/gpu" + ("0" if setup.gpus == 1 else f"[0-{setup.gpus - 1}]")
        (self.d / "gres.conf").write_text(f"NodeName={','.join(nodes)} Name=gpu File={files}\n" if setup.gpus else "")
        (self.d / "cgroup.conf").write_text(text.CGROUP_CONF)
        (self.d / "hosts").write_text(text.hosts(host, nodes))
        database = self.d / "slurmdbd.conf"
        database.write_text(text.SLURMDBD_CONF.format(**values))
        database.chmod(0o600)

    def _start_munge(self) -> None:
        m = self.d / "munge"
        (m / "key").touch(0o600)
        (m / "key").write_bytes(os.urandom(128))
        self._spawn("munged", [
            "munged", "-F", f"--key-file={m}/key", f"--socket={m}/socket", f"--pid-file={m}/pid",
            f"--log-file={m}/log", f"--seed-file={m}/seed", "--num-threads=4",
        ])  # fmt: skip

    def _install_database(self) -> "subprocess.Popen[bytes]":
        """Begin to make the database; its temporary tables are named by process ids, which two clusters may share."""
        (self.d / "db-tmp").mkdir()
        with (self.d / "log/install-db.out").open("wb") as log:
            return subprocess.Popen(
                ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.d}/db",
                 f"--tmpdir={self.d}/db-tmp", "--skip-test-db",
                 "--auth-root-authentication-method=normal", "--skip-name-resolve", *text.NO_SYNC],
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _start_accounting(self, install: "subprocess.Popen[bytes]", port: int) -> None:
        if install.wait():
            raise SystemExit((self.d / "log/install-db.out").read_text())
        (self.d / "etc/init.sql").write_text(text.INIT_SQL)
        sock = self.d / "db/sock"
        self._spawn("mariadbd", [
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={self.d}/db", f"--socket={sock}",
            f"--tmpdir={self.d}/db-tmp",
            "--skip-networking", f"--pid-file={self.d}/db/pid", f"--init-file={self.d}/etc/init.sql",
            "--innodb-buffer-pool-size=32M", "--innodb-lock-wait-timeout=900", "--skip-name-resolve",
            "--performance-schema=OFF", *text.NO_SYNC,
        ])  # fmt: skip
        self._wait("mariadbd", sock.exists, ["mariadbd"])
        # libmariadb takes the socket for 'localhost' from MYSQL_UNIX_PORT
        self._spawn("slurmdbd", ["slurmdbd", "-D"], dict(self.env, MYSQL_UNIX_PORT=str(sock)))
        self._wait("slurmdbd", lambda: listening(port), ["mariadbd", "slurmdbd"])

    def _spawn(self, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        follow = None if self.stays else lambda: signal_when_parent_dies(signal.SIGKILL)
        with (self.d / "log" / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=env or self.env, preexec_fn=follow,
            )  # fmt: skip
        self.children.append(process)
        self.procs[name] = [process.pid, started(process.pid)]
        aside = self.state_file.with_suffix(".tmp")
        aside.write_text(json.dumps(self.state, indent=1))
        aside.replace(self.state_file)

    def running(self, name: str) -> bool:
        return name in self.procs and alive(*self.procs[name])

    def _wait(self, what: str, test: Callable[[], bool], names: list[str], timeout_s: float = 120) -> None:
        end = time.monotonic() + timeout_s
        while not test():
            dead = [n for n in names if not self.running(n)]
            if dead or time.monotonic() > end:
                logs = [log for n in names for log in sorted((self.d / "log").glob(f"{n}.*"))]
                told = "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)
                raise SystemExit(f"{what}: {f'{dead} died' if dead else f'not ready in {timeout_s} s'}\n{told}")
            time.sleep(0.05)

    def tool(self, *command: str, timeout_s: float = 60) -> str:
        """What one of SLURM's commands prints; empty when it does not answer."""
        try:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout

    def node_states(self) -> list[str]:
        return self.tool("sinfo", "-hN", "-p", "low", "-o", "%t").split()

    def boot(self, name: str) -> None:
        """Start a node, or the slurmd of one that lives without."""
        if self.running(name):
            if not self.slurmd_pid(name):
                os.kill(descendants(self.procs[name][0])[0][0], signal.SIGUSR1)
            return
        (self.d / "spool" / name).mkdir(exist_ok=True)
        self._spawn(name, [
            "unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child=SIGKILL", "--mount-proc",
            "bash", "-c", text.NODE_INIT, f"node-{name}", name, str(self.d),
        ])  # fmt: skip

    def kill_node(self, name: str) -> None:
        """Crash a node with all that runs on it."""
        self._end(name, signal.SIGKILL)

    def slurmd_pid(self, name: str) -> int | None:
        for pid, _ in descendants(self.procs[name][0]):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "slurmd":
                    return pid
        return None

    def kill_slurmd(self, name: str) -> None:
        """Kill a node's slurmd and nothing else."""
        if pid := self.slurmd_pid(name):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End everything that was started, by process id."""
        for name in [*self.nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            # a node's unshare dies by KILL and takes its whole PID namespace with it
            self._end(name, signal.SIGKILL if name in self.nodes else signal.SIGTERM)
        for name in self.nodes:
            for folder, _, _ in os.walk(FREEZER / f"slurm_{name}", topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        for child in self.children:
            child.wait()
        self.state, self.procs = {}, {}
        self.state_file.unlink(missing_ok=True)

    def _end(self, name: str, number: int, timeout_s: float = 15) -> None:
        if not self.running(name):
            return
        pid, start = self.procs[name]
        children = descendants(pid) if name in self.nodes else []
        for sig in (number, signal.SIGKILL):
            os.kill(pid, sig)
            end = time.monotonic() + timeout_s
            while time.monotonic() < end:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                if not alive(pid, start) and not any(alive(*child) for child in children):
                    return
                time.sleep(0.02)
        raise SystemExit(f"{name} ({pid}) does not end")
