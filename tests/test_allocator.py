"""The memory that a step frees is kept for the next: seen in the kernel's count of page faults."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segtrain.allocator import keep_memory

# Take and free 64 MiB a few times, as activations are; print how many pages the kernel had to supply after the first.
PROBE = """
import ctypes, json, resource, sys
from segtrain.allocator import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def once():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    once()
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, "torch" in sys.modules]))
"""


def page_faults(how: str) -> tuple[bool | None, int]:
    done = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=True, timeout=60)
    kept, faults, torch_imported = json.loads(done.stdout)
    assert not torch_imported
    return kept, faults


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_pages_are_supplied_once() -> None:
    (kept, faults), (_, system_faults) = page_faults("keep"), page_faults("system")
    if not kept:
        pytest.skip("the C library is not glibc: its allocator is left alone")
    assert faults < 100
    assert system_faults > 4 * 100  # the system's way, or the test could not tell


# What the command had imported when it set the allocator; it goes no further than to the import of torch.
COMMAND = """
import json, sys, types
from segtrain import train
seen = []
train.keep_memory = lambda: seen.append("torch" in sys.modules)
sys.modules["segtrain.dist"] = types.ModuleType("segtrain.dist")
try:
    train.command(sys.argv[1:])
except ImportError:
    print(json.dumps(seen))
"""


@pytest.mark.parametrize(("overrides", "expected"), [([], [False]), (["allocator=system"], []), (["device=cuda"], [])])
def test_the_command_sets_it_before_torch_is_imported(
    tmp_path: Path, overrides: list[str], expected: list[bool]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *overrides, f"runs_dir={tmp_path}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout) == expected


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        """No gnu_get_libc_version, and mallopt must not be asked."""

    monkeypatch.setattr("ctypes.CDLL", lambda name: Musl())
    assert keep_memory() is False
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_memory() is False
