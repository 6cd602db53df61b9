"""What a process with its children, its machine and its GPU use. Imports no torch.

A GPU is read through NVML, which asks the driver and makes no device wait.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

MIB, GIB = 2**20, 2**30
Usage = dict[str, float]


class Meter:
    """What was used between two readings, and what is held at the second.

    cpu_percent (100 is one core), rss_gib, disk_read_mib_s, disk_write_mib_s: this process and its children.
    machine_cpu_percent (100 is all cores), machine_memory_percent, net_received_mib_s, net_sent_mib_s: the machine, its
    loopback interface apart. gpu_percent, gpu_memory_gib, gpu_watts, gpu_celsius: the GPU, whoever uses it. What the
    system does not tell is left out.
    """

    def __init__(self, gpu_uuid: str | None = None) -> None:
        self.process = psutil.Process()
        self.gpu = gpu_reader(gpu_uuid) if gpu_uuid else None
        psutil.cpu_percent()  # its first answer is about nothing
        self.at_s, self.before = time.monotonic(), _counters(self._tree())

    def read(self) -> Usage:
        """Since the last reading."""
        tree = self._tree()  # asks for every process of the machine: once
        now_s, counters = time.monotonic(), _counters(tree)
        passed_s = max(now_s - self.at_s, 1e-3)
        # A child that has ended takes its counts along.
        rates = {key: max(0.0, value - self.before.get(key, value)) / passed_s for key, value in counters.items()}
        self.at_s, self.before = now_s, counters
        memory = psutil.virtual_memory()
        found = {
            **rates, "rss_gib": sum(_of(p, lambda p: float(p.memory_info().rss)) for p in tree) / GIB,
            "machine_cpu_percent": psutil.cpu_percent(), "machine_memory_percent": memory.percent,
            **(self.gpu() if self.gpu else {}),
        }  # fmt: skip
        return {key: round(value, 3) for key, value in found.items()}

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except (psutil.Error, OSError):
            return [self.process]


def _counters(tree: list[psutil.Process]) -> Usage:
    """What only grows, in units whose growth a second is the unit of its name."""
    found = {"cpu_percent": 100 * sum(_of(p, lambda p: float(sum(p.cpu_times()[:2]))) for p in tree)}
    with suppress(psutil.Error, OSError, AttributeError):  # not told in some containers
        tree[0].io_counters()
        found["disk_read_mib_s"] = sum(_of(p, lambda p: float(p.io_counters().read_bytes)) for p in tree) / MIB
        found["disk_write_mib_s"] = sum(_of(p, lambda p: float(p.io_counters().write_bytes)) for p in tree) / MIB
    with suppress(OSError):
        cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
        found["net_received_mib_s"] = sum(card.bytes_recv for card in cards) / MIB
        found["net_sent_mib_s"] = sum(card.bytes_sent for card in cards) / MIB
    return found


def _of(process: psutil.Process, value: Callable[[psutil.Process], float]) -> float:
    """Of a process that may be gone by now."""
    try:
        return value(process)
    except (psutil.Error, OSError):
        return 0.0


def gpu_reader(uuid: str) -> Callable[[], Usage] | None:
    """What reads the GPU of this UUID (`GPU-...`), which CUDA_VISIBLE_DEVICES does not renumber.

    None where the driver has no NVML for it.
    """
    import pynvml  # where there is a GPU

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
    except pynvml.NVMLError:
        return None
    readings: dict[str, Callable[[], Any]] = {
        "gpu_percent": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "gpu_memory_gib": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used / GIB,
        "gpu_watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "gpu_celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    }

    def read() -> Usage:
        found = {}
        for name, reading in readings.items():
            with suppress(pynvml.NVMLError):  # a part of a GPU (MIG) tells less
                found[name] = float(reading())
        return found

    return read
