"""What may go wrong before the first step on a GPU, each by a stand-in for the driver, SLURM, NCCL or the network."""

import socket
from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_runs import network

from segtrain.config import Config
from segtrain.doctor import software
from segtrain.errors import LaunchError
from segtrain.runtime import addresses, gpu, interface, world
from segtrain.runtime.world import World, device_of, join

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be reported"
NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, {kind}, NCCL version 2.28.9\n"
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n{cause}"
)
Address = namedtuple("Address", "address")


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


def broken(message: str) -> Any:
    def start(*_: object) -> None:
        raise RuntimeError(message)

    return start


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            TOO_OLD,
            "cuda:0 cannot be used: The NVIDIA driver on .* too old .*; update the NVIDIA driver, or",
        ),
        (NO_KERNEL, "no kernel image .*; install a torch that is built for this kind of GPU, or use device=cpu"),
        (
            "CUDA error: all CUDA-capable devices are busy or unavailable",
            "see nvidia-smi for a process that holds it",
        ),
        ("CUDA error: unknown error", "; check the GPU with nvidia-smi, or use device=cpu"),
    ],
)
def test_a_gpu_that_cuda_does_not_start_on_is_one_line(
    one_gpu: None, message: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML counts the GPUs, so torch finds out only when it starts CUDA."""
    monkeypatch.setattr(torch.cuda, "set_device", broken(message))
    monkeypatch.setattr(torch.cuda, "get_device_properties", broken(message))
    with pytest.raises(LaunchError, match=words) as caught, join("auto", 1):
        pass
    assert "\n" not in str(caught.value)
    (finding,) = [finding for finding in software.devices(Config()) if finding.check == "device"]
    assert finding.state == "failure"
    assert "CUDA does not start" in finding.message


def test_a_task_that_slurm_gives_one_gpu_uses_it(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun --gpus-per-task=1: each of four tasks of a node sees a GPU of its own, as cuda:0."""
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert device_of("auto", 3, 4) == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match=r"SLURM gives this one 2 GPU.*--gpus-per-node=4 without --gpus-per-task"):
        device_of("auto", 3, 4)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(LaunchError, match="--nproc_per_node=2"):
        device_of("auto", 3, 4)
    monkeypatch.delenv("SLURM_LOCALID")


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("kind", "cause", "words"),
    [
        (
            "invalid usage",
            "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000",
            "NCCL cannot start on rank 1 of 2: Duplicate GPU .* 1b000; start one rank for each GPU",
        ),
        (
            "unhandled system error",
            "Error while creating shared memory segment /dev/shm/nccl-Z (size 9637888)",
            "Error while creating .*; enlarge /dev/shm",
        ),
        ("unhandled cuda error", "Cuda failure 2 'out of memory'", "out of memory'; see nvidia-smi"),
        ("internal error", "something new", "something new; set NCCL_DEBUG=INFO"),
    ],
)
def test_nccl_that_does_not_start_says_why(kind: str, cause: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise dist.DistBackendError(NCCL.format(kind=kind, cause=cause))

    monkeypatch.setattr(dist, "init_process_group", refuse)
    with pytest.raises(LaunchError, match=words) as caught:
        world._init(World(1, 2, 1, torch.device("cuda", 1)), one_node=True)
    assert "cannot reach" not in str(caught.value)


def test_an_unreachable_address_is_still_told_as_one() -> None:
    error = dist.DistNetworkError("The client socket has timed out while trying to connect to (node1, 29500).")
    assert gpu.nccl_problem(error) is None


def test_gloo_does_not_follow_a_host_name_that_means_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's /etc/hosts: 127.0.1.1 node0. Other nodes are reached by the interface of the way to them."""
    ways = {"node0": "127.0.0.1", "node1": "10.0.0.5", interface.ELSEWHERE: "10.0.0.5", "far": None}
    interfaces = {"lo": [Address("127.0.0.1")], "ib0": [Address("fe80::1%ib0"), Address("10.0.0.5")]}
    monkeypatch.setattr(interface, "_own_address", lambda host, port: ways[host])
    monkeypatch.setattr("psutil.net_if_addrs", lambda: interfaces)
    found = {host: interface.interface_to(host, 29500) for host in ("node0", "node1", "far", "localhost", "127.0.0.2")}
    assert found == {"node0": "ib0", "node1": "ib0", "far": None, "localhost": None, "127.0.0.2": None}
    del interfaces["ib0"]
    assert interface.interface_to("node0", 29500) is None


@pytest.mark.parametrize(
    ("interface_name", "served", "other"), [("ib0", "192.168.7.5", "10.0.0.5"), ("", "10.0.0.5", "192.168.7.5")]
)
def test_of_several_addresses_that_between_nodes_is_served(
    interface_name: str,
    served: str,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A node's name that resolves to its Ethernet and its InfiniBand address."""
    entries = [(0, 0, 0, "", (address, 0)) for address in ("10.0.0.5", "192.168.7.5")]
    interfaces = {"eth0": [Address("10.0.0.5")], "ib0": [Address("192.168.7.5")]}
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    monkeypatch.setattr("psutil.net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(socket, "create_server", lambda address, **_: address)
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", interface_name)
    server: Any = addresses.listen("node0", 29500, other_nodes=True)
    assert server == (served, 29500)
    assert f"node0 is {served} and {other}: the ranks meet at {served}; for another" in capsys.readouterr().err
    server = addresses.listen("node0", 29500)
    assert server == (served, 29500)
    assert not capsys.readouterr().err
    entries.pop()
    addresses.listen("node0", 29500, other_nodes=True)
    assert not capsys.readouterr().err


def test_an_own_address_is_that_of_the_way_to_the_host() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert interface._own_address("127.0.0.1", listener.getsockname()[1]) == "127.0.0.1"
    assert interface._own_address("no such host", 1) is None


def test_the_cuda_suite_forks_no_generators_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs torch warns of it, and a warning is an error here."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    network()
