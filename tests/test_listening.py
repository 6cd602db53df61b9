"""Ports: what a training listens at is reached by this machine alone, or at the address that its other nodes use."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from long_form import LONG
from ranks import free_port
from torch.distributed.elastic.rendezvous import RendezvousParameters

from segtrain.config import Config, to_yaml
from segtrain.doctor import listening
from segtrain.runtime import addresses
from segtrain.runtime.store import connect, serve
from segtrain.runtime.torchrun_rendezvous import BACKEND, Rendezvous

START_S = 90.0
# The same training as users start it. The first starts ranks as the jobs do too, by segtrain.runtime.torchrun.
WAYS = {
    "segtrain train": ["segtrain", "train", "--nproc", "2", "--config", "given.yaml"],
    "a rank of a job": ["jobs.launch", "--nproc-per-node=2", "-m", "jobs.rank", "--config", "given.yaml"],
    "in the foreground": ["jobs.submit", "--executor", "local", "--config", "given.yaml"],
    "a queue": ["jobs.offline", "queue.yaml", "--processes", "2"],
}


def other_addresses() -> list[str]:
    """Those of this machine besides 127.0.0.1: as good as another machine where the port is bound to that one."""
    own = [address for each in psutil.net_if_addrs().values() for address in each]
    ip4 = [address.address for address in own if address.family == socket.AF_INET and address.address != "127.0.0.1"]
    ip6 = [address.address for address in own if address.family == socket.AF_INET6]
    return ["127.0.0.2", *ip4, *ip6]


def is_refused(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return True
    return False


def listening_lines(pids: set[int]) -> dict[int, str]:
    """The ports at which the processes listen, and the local address as the kernel writes it, in hexadecimal."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                address, port = words[1].split(":")
                ports[int(port, 16)] = address
    return ports


@contextmanager
def training(folder: Path, command: list[str]) -> Iterator[set[int]]:
    """The processes of a training that has begun; they are stopped at the end."""
    with (folder / "output.txt").open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "-m", *command], cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    family: list[psutil.Process] = [process]
    try:
        end = time.monotonic() + START_S
        while not any('"train"' in file.read_text() for file in folder.glob("runs/**/metrics.jsonl")):
            assert process.poll() is None, (folder / "output.txt").read_text()
            assert time.monotonic() < end, (folder / "output.txt").read_text()
            time.sleep(0.1)
        family += process.children(recursive=True)
        yield {one.pid for one in family}
    finally:
        for one in reversed(family):
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=10)


@pytest.mark.parametrize("way", WAYS if LONG else list(WAYS)[:1])
def test_no_port_of_a_training_on_one_machine_is_open_to_another(tiny: Config, tmp_path: Path, way: str) -> None:
    (tmp_path / "given.yaml").write_text(to_yaml(tiny))
    (tmp_path / "queue.yaml").write_text(f"name: q\nruns: [{{config: {tmp_path / 'given.yaml'}}}]\n")
    with training(tmp_path, [*WAYS[way], "train.epochs=999"]) as pids:
        ports = listening_lines(pids)
        assert len(ports) >= (1 if way == "in the foreground" else 3), "the launcher's store, and gloo's of two ranks"
        assert set(ports.values()) == {"0100007F"}, "127.0.0.1, in the kernel's order of bytes"
        assert all(is_refused(address, port) for address in other_addresses() for port in ports)
        assert not any(is_refused("127.0.0.1", port) for port in ports), "the test would see an open one"


def test_launchers_of_several_nodes_listen_at_the_first_one_s_address_alone() -> None:
    port = free_port("127.0.0.2")
    before = listening_lines({os.getpid()})
    nodes = [
        Rendezvous.of(RendezvousParameters(BACKEND, f"127.0.0.2:{port}", "id", 2, 2, rank=rank, timeout=20))
        for rank in (0, 1)
    ]
    with ThreadPoolExecutor() as pool:
        infos = list(pool.map(lambda node: node.next_rendezvous(), nodes))
    assert [(info.rank, info.world_size) for info in infos] == [(0, 2), (1, 2)]
    infos[1].store.set("key", "value")
    assert infos[0].store.get("key") == b"value"
    assert {other: line for other, line in listening_lines({os.getpid()}).items() if other not in before} == {
        port: "0200007F"
    }
    assert is_refused("127.0.0.1", port)


def test_ranks_that_are_started_again_find_no_keys_of_those_before() -> None:
    node = Rendezvous.of(RendezvousParameters(BACKEND, "127.0.0.1:0", "id", 1, 1, rank=0, timeout=20))
    node.next_rendezvous().store.set("key", "value")
    assert not node.next_rendezvous().store.check(["key"])


def test_a_store_that_no_launcher_serves_is_bound_too() -> None:
    timeout = timedelta(seconds=20)
    port = free_port()
    with ThreadPoolExecutor() as pool:
        server = pool.submit(serve, "localhost", port, 2, timeout, other_nodes=False)
        connect("localhost", port, 2, timeout).set("key", "value")
        assert server.result().get("key") == b"value"
    assert all(is_refused(address, port) for address in other_addresses())


def test_a_name_that_means_this_machine_only_is_not_where_other_nodes_come(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of Debian's /etc/hosts, which names the machine 127.0.1.1: there the ports are open, and a line says so."""
    monkeypatch.setattr(addresses, "_addresses_of", lambda host: ["127.0.1.1"])
    assert addresses.listen("n1", 0, other_nodes=True) is None
    for host, other_nodes in (("n1", False), ("127.0.1.1", True)):
        listener = addresses.listen(host, 0, other_nodes)
        assert listener is not None
        with listener:
            assert listener.getsockname()[0] == "127.0.1.1"
    monkeypatch.setattr(addresses, "_addresses_of", lambda host: ["192.0.2.77"])
    assert addresses.listen("n1", 0) is None, "an address that this machine has not"
    addresses.warn_of_all_interfaces("n1", 1)
    assert "set interface=" in capsys.readouterr().err


def test_a_rank_that_was_started_by_hand_at_localhost_is_for_this_machine() -> None:
    """It cannot tell that there are no other nodes."""
    listener = addresses.listen("localhost", 0, other_nodes=True)
    assert listener is not None
    with listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    "options",
    [["--rdzv-endpoint=n1:29400"], ["--rdzv-backend=c10d"], ["--nnodes=1:4"]],
    ids=["endpoint", "c10d", "1:4"],
)
def test_a_rendezvous_that_the_launcher_does_not_have_is_refused(options: list[str]) -> None:
    """Else each node would wait for the others at an address of its own."""
    command = [sys.executable, "-m", "segtrain.runtime.torchrun", "--nnodes=2", *options, "-m", "segtrain.train"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "a fixed number of nodes by --nnodes, --node-rank" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_doctor_names_programs_that_the_network_reaches(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text(
        "import socket, time\nserver = socket.create_server((HOST, 0))\nprint(flush=True)\ntime.sleep(60)\n"
    )
    script = (tmp_path / "tensorboard").read_text()
    for host, is_open in (("", True), ("127.0.0.1", False)):
        (tmp_path / "tensorboard").write_text(script.replace("HOST", repr(host)))
        program = subprocess.Popen([sys.executable, str(tmp_path / "tensorboard")], stdout=subprocess.PIPE)
        try:
            assert program.stdout is not None
            program.stdout.readline()
            mine = [finding for finding in listening.check() if f"process {program.pid}," in finding.message]
        finally:
            program.kill()
            program.communicate()
        assert len(mine) == is_open
        if is_open:
            assert "of all interfaces" in mine[0].message
            assert "docs/security.md" in mine[0].remedy
