"""Resources used by a process and its children, its machine and its GPU. Imports no torch.

A GPU is read through NVML, which asks the driver and does not make the device wait.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

MIB, GIB = 2**20, 2**30
Usage = dict[str, float]


class Meter:
    """Rates between two readings, and amounts at the second.

    cpu_percent (100 is one core), rss_gib, disk_read_mib_s, disk_write_mib_s: this process and its children.
    machine_cpu_percent (100 is all cores), machine_memory_percent, net_received_mib_s, net_sent_mib_s: the machine,
    without its loopback interface. gpu_percent, gpu_memory_gib, gpu_watts, gpu_celsius: the GPU, whoever uses it. What
    the system does not provide is left out.
    """

    def __init__(self, gpu_uuid: str | None = None) -> None:
        self.process = psutil.Process()
        self.gpu = gpu_reader(gpu_uuid) if gpu_uuid else None
        psutil.cpu_percent()  # its first answer is meaningless
        self.at_s = time.monotonic()
        self.before = _counters(self._tree())

    def read(self) -> Usage:
        """The usage since the last reading."""
        tree = self._tree()  # slow, since it looks at every process of the machine: only once
        now_s = time.monotonic()
        counters = _counters(tree)
        passed_s = max(now_s - self.at_s, 1e-3)
        # The counts of a child that has ended are gone, so a sum may shrink.
        usage = {key: max(0.0, value - self.before.get(key, value)) / passed_s for key, value in counters.items()}
        self.at_s = now_s
        self.before = counters
        usage["rss_gib"] = sum(_of(p, lambda p: float(p.memory_info().rss)) for p in tree) / GIB
        usage["machine_cpu_percent"] = psutil.cpu_percent()
        usage["machine_memory_percent"] = psutil.virtual_memory().percent
        if self.gpu:
            usage |= self.gpu()
        return {key: round(value, 3) for key, value in usage.items()}

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except (psutil.Error, OSError):
            return [self.process]


def _counters(tree: list[psutil.Process]) -> Usage:
    """Counters that only grow, in units whose growth per second is the unit in the name."""
    counters = {"cpu_percent": 100 * sum(_of(p, lambda p: float(sum(p.cpu_times()[:2]))) for p in tree)}
    with suppress(psutil.Error, OSError, AttributeError):  # some containers do not provide it
        tree[0].io_counters()
        counters["disk_read_mib_s"] = sum(_of(p, lambda p: float(p.io_counters().read_bytes)) for p in tree) / MIB
        counters["disk_write_mib_s"] = sum(_of(p, lambda p: float(p.io_counters().write_bytes)) for p in tree) / MIB
    with suppress(OSError):
        cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
        counters["net_received_mib_s"] = sum(card.bytes_recv for card in cards) / MIB
        counters["net_sent_mib_s"] = sum(card.bytes_sent for card in cards) / MIB
    return counters


def _of(process: psutil.Process, value: Callable[[psutil.Process], float]) -> float:
    """The value of a process, 0 if that has ended."""
    try:
        return value(process)
    except (psutil.Error, OSError):
        return 0.0


def gpu_reader(uuid: str) -> Callable[[], Usage] | None:
    """A function that reads the GPU of this UUID (`GPU-...`), which CUDA_VISIBLE_DEVICES does not renumber.

    None where NVML does not know the GPU.
    """
    import pynvml  # only where there is a GPU

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
        usage = {}
        for name, reading in readings.items():
            with suppress(pynvml.NVMLError):  # a part of a GPU (MIG) provides less
                usage[name] = float(reading())
        return usage

    return read
