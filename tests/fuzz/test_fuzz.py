"""Hostile and damaged files of every kind: read, or refused in one line that names the file (L12, L7).

FUZZ_INPUTS=100000 is the number over all kinds; FUZZ_ONLY=kind:seed does one input again; FUZZ_FIRST is the first seed.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import limited_memory, peak_bytes
from readers import KINDS
from trials import Fault, trial

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1000"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
ONLY = os.environ.get("FUZZ_ONLY", "")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory: stores are synced, which takes longer on a disk than all the rest."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if os.access(shared_memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", KINDS)
def test_the_files_to_begin_with_are_read(name: str, place: Path) -> None:
    trials = [trial(name, seed, place / "input", damaged=False) for seed in range(20)]
    assert not [fault for _, fault in trials if fault]
    assert sum(was_read for was_read, _ in trials) >= 2


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_input_is_read_or_refused(name: str, place: Path, tmp_path: Path) -> None:
    seeds = range(FIRST, FIRST + INPUTS // len(KINDS))
    if ONLY:
        kind, _, number = ONLY.partition(":")
        if kind != name:
            pytest.skip("FUZZ_ONLY names another kind")
        seeds = range(int(number), int(number) + 1)
    trial(name, FIRST, place / "input")  # what is imported now is no reader's
    began_s, peak = time.process_time(), peak_bytes()
    read = 0
    faults: dict[str, list[Fault]] = {}
    with limited_memory():
        for seed in seeds:
            (tmp_path / "seed").write_text(f"{name}:{seed}")  # for a crash of the interpreter
            was_read, fault = trial(name, seed, place / "input")
            read += was_read
            if fault:
                faults.setdefault(fault.place, []).append(fault)
    used_s, more_mib = time.process_time() - began_s, (peak_bytes() - peak) / 2**20
    count = sum(map(len, faults.values()))
    sys.stdout.write(
        f"{name}: {len(seeds)} inputs, {read} read, {len(seeds) - read - count} refused, {count} faults of "
        f"{len(faults)} kinds; {used_s:.0f} s of CPU, {more_mib:.0f} MiB more memory\n"
    )
    assert not faults, "\n\n".join(f"{len(alike)} like this:\n{alike[0]}" for alike in faults.values())
