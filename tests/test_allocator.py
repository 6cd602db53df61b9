"""The memory that a step frees is kept for the next: seen in the kernel's count of page faults."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from torch import Tensor

from segtrain.config import Config, load_config, to_yaml
from segtrain.run import Run
from segtrain.runtime import allocator
from segtrain.runtime.allocator import (
    SMALL_CACHE,
    TUNABLES,
    begin_first_step,
    end_first_step,
    give_memory_back,
    keep_memory,
    without_small_caches,
)
from segtrain.runtime.stop import Stop
from segtrain.runtime.world import World
from segtrain.training import loop, session
from segtrain.training.micro_batch import MemoryGuard

# Take and free 3 GiB a few times, as activations are, touching a page in 2 MiB; print how many pages the kernel had to
# supply after the first time. No page is of 2 MiB itself (41: PR_SET_THP_DISABLE).
PROBE = """
import ctypes, json, resource, sys
from segtrain.runtime.allocator import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.prctl(41, 1, 0, 0, 0)
def once():
    block = libc.malloc(3 << 30)  # more than glibc can be told to leave free at the heap's end by a number
    for place in range(0, 3 << 30, 2 << 20):
        ctypes.memset(block + place, 1, 1)
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


# Whether torch was there when the command set the allocator; it goes no further than to where the ranks join. One
# process for all command lines, the first of which alone has to do without torch.
COMMAND = """
import json, sys, types
from importlib import import_module
from segtrain.runtime import allocator
sys.modules["segtrain.runtime.world"] = types.ModuleType("segtrain.runtime.world")
module, function, *lines = sys.argv[1:]
for argv in map(json.loads, lines):
    seen = []
    allocator.keep_memory = lambda: seen.append("torch" in sys.modules)
    called = getattr(import_module(module), function)
    try:
        called(argv) if function == "command" else called(*argv)
    except ImportError as error:
        assert error.name == "segtrain.runtime.world", error
        print("SEEN", json.dumps(seen))
"""

COMMANDS = (
    "segtrain.commands.train",
    "segtrain.commands.evaluate",
    "segtrain.commands.predict",
    "segtrain.commands.report",
    "segtrain.doctor.trial",
)
OVERRIDES: tuple[tuple[str, ...], ...] = ((), ("allocator=system",), ("device=cuda",))


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_that_computes_sets_it_before_torch_is_imported(
    module: str, trained_run: Run, predicted_patient: Path, tmp_path: Path
) -> None:
    function, lines = "command", list[str]()
    for overrides in OVERRIDES:
        match module:
            case "segtrain.commands.train":
                argv = [f"runs_dir={tmp_path}", *overrides]
            case "segtrain.doctor.trial":
                given = tmp_path / f"given{len(lines)}.yaml"
                given.write_text(to_yaml(load_config(None, overrides)))
                function, argv = "main", [str(given), "1"]
            case _:
                images = ["--images", str(predicted_patient.parent / "in")] if "predict" in module else []
                argv = [str(trained_run.root), *images, "--out", str(tmp_path / f"out{len(lines)}"), *overrides]
        lines.append(json.dumps(argv))
    command = [sys.executable, "-c", COMMAND, module, function, *lines]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert seen == [[False], [], []]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        """No gnu_get_libc_version, and mallopt must not be asked."""

    monkeypatch.setattr("ctypes.CDLL", lambda name: Musl())
    assert keep_memory() is False
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_memory() is False


class Glibc:
    """What malloc was told, what is taken, and how often free memory was returned to the system."""

    def __init__(self) -> None:
        self.settings: dict[int, int] = {}
        self.trimmed = 0
        self.malloc, self.realloc = Mock(side_effect=lambda size: size), Mock()

    def gnu_get_libc_version(self) -> None: ...

    def malloc_trim(self, _: int) -> None:
        self.trimmed += 1

    def mallopt(self, option: int, value: int) -> int:
        self.settings[option] = value
        return 1


@pytest.fixture
def glibc(monkeypatch: pytest.MonkeyPatch) -> Glibc:
    libc = Glibc()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: libc)
    for event in ("_malloc_keeps", "_in_first_step"):
        monkeypatch.setattr(allocator, event, threading.Event())
    return libc


def test_settings_of_malloc_are_undone_where_they_were_made(glibc: Glibc) -> None:
    give_memory_back()
    assert glibc.settings == {}
    assert keep_memory()
    give_memory_back()
    assert glibc.settings[allocator.M_MMAP_THRESHOLD] == 32 << 20
    assert glibc.settings[allocator.M_TRIM_THRESHOLD] == 64 << 20
    assert glibc.settings[allocator.M_MXFAST] == 128
    assert glibc.trimmed == 1


def test_in_a_first_step_large_blocks_lie_apart(glibc: Glibc) -> None:
    begin_first_step()
    end_first_step()
    assert glibc.settings == {}, "memory is not kept"
    assert keep_memory()
    begin_first_step()
    assert (glibc.settings[allocator.M_MMAP_MAX], glibc.settings[allocator.M_MMAP_THRESHOLD]) == (65536, 1 << 20)
    assert glibc.trimmed == 1
    end_first_step()
    assert glibc.settings[allocator.M_MMAP_MAX] == 0
    gaps = glibc.realloc.call_count
    end_first_step()
    assert glibc.realloc.call_count == gaps > 0, "a later step changes nothing"


def test_a_training_that_ended_in_its_first_step_leaves_nothing(glibc: Glibc) -> None:
    keep_memory()
    begin_first_step()
    give_memory_back()
    end_first_step()
    assert glibc.settings[allocator.M_MMAP_MAX] > 0
    assert glibc.realloc.call_count == 0


# Leave gaps in this process's heap; print how many of them take what is larger, and how many what is nearly as large.
GAPS = """
import ctypes, json
from segtrain.runtime import allocator
libc, ends = ctypes.CDLL(None), []
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
class Seen:
    def __init__(self):
        self.malloc, self.realloc = Seen.taken, libc.realloc
    def taken(size):
        ends.append(libc.malloc(size))
        return ends[-1]
allocator.keep_memory()
small = [libc.malloc(24) for _ in range(1000)]
for block in small[::2]:
    libc.free(ctypes.c_void_p(block))  # which small blocks would rather go into
allocator._leave_gaps(Seen())
def inside(size):
    blocks = [libc.malloc(size) for _ in ends]
    return sum(any(start <= block < start + allocator.GAP_BYTES for start in ends[:-1]) for block in blocks)
print(json.dumps([inside(2 * allocator.GAP_BYTES), inside(allocator.GAP_BYTES - 4096), len(ends) - 1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_gaps_do_not_become_one() -> None:
    if not allocator._glibc():
        pytest.skip("the C library is not glibc: its allocator is left alone")
    done = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True, timeout=60)
    larger, as_large, gaps = json.loads(done.stdout)
    assert (larger, as_large) == (0, gaps)


def test_the_loop_says_when_the_first_step_is_done(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    monkeypatch.setattr(loop, "begin_first_step", lambda: order.append("begin"))
    monkeypatch.setattr(loop, "end_first_step", lambda: order.append("end"))
    step = MemoryGuard.step

    def watched(*arguments: Any) -> Tensor:
        order.append("step")
        return step(*arguments)

    monkeypatch.setattr(MemoryGuard, "step", watched)
    cfg = replace(tiny, runs_dir=str(tmp_path), train=replace(tiny.train, epochs=1))
    session.train(cfg, Run.of(cfg), [], False, Stop(), World())
    assert order[:5] == ["begin", "step", "end", "step", "end"]
    assert order.count("begin") == 1


def test_what_a_user_says_of_glibc_stays() -> None:
    environment = {TUNABLES: "glibc.malloc.hugetlb=1"}
    without_small_caches(environment)
    assert environment == {TUNABLES: "glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=0"}
    before = {TUNABLES: "glibc.malloc.tcache_count=3"}
    without_small_caches(before)
    assert before == {TUNABLES: "glibc.malloc.tcache_count=3"}


def test_segtrain_s_launcher_starts_ranks_so() -> None:
    rank = "import os; print(os.environ['GLIBC_TUNABLES'])"
    launch = [sys.executable, "-m", "segtrain.runtime.torchrun", "--no-python", "--nproc-per-node=1"]
    command = [*launch, sys.executable, "-c", rank]
    others = {name: value for name, value in os.environ.items() if name != TUNABLES}
    done = subprocess.run(command, env=others, capture_output=True, text=True, check=True, timeout=100)
    assert f"{SMALL_CACHE}=0" in done.stdout
