"""How the time and memory of pieces of work grow: each in a process of its own, at several sizes, with exponents.

An exponent of 1 means that ten times the size takes ten times as long. A piece is not measured at a larger size once it
has taken longer than --most-s.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import machine, peak_gib
from segtrain.errors import DataError
from segtrain.runtime.terminal import show_table

Work = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """A piece of work at one size; gib: the peak of its process."""

    piece: str
    size: int
    cpu_s: float
    wall_s: float
    gib: float


@dataclass(frozen=True)
class Growth:
    """Pieces of work on what there is so much of, as patients: `make` writes it, a piece's set-up returns the work.

    `module` is the benchmark's, which is started anew for each piece.
    """

    module: str
    title: str
    of: str
    sizes: Sequence[int]
    make: Callable[[Path, int], None]
    pieces: Mapping[str, Callable[[Path], Work]]
    folder: Path

    def command(self, argv: Sequence[str], description: str) -> int:
        """Make what is measured, measure each piece at each size, print the table."""
        options = self._options(argv, description)
        folder = options.folder.resolve()
        sizes = sorted(options.sizes)
        if options.here:
            print(json.dumps(asdict(self.measure_here(options.here, sizes[0], folder / str(sizes[0])))))
            return 0
        measured: list[Measured] = []
        pieces = list(options.pieces)
        for size in sizes:
            self.make(folder / str(size), size)
            done = [self._measure(piece, size, folder) for piece in pieces]
            measured += done
            pieces = [one.piece for one in done if one.cpu_s <= options.most_s]
            print(f"{size} {self.of}: {sum(one.wall_s for one in done):.0f} s", file=sys.stderr, flush=True)
        if options.json:
            results = {"machine": machine(), "of": self.of, "measured": [asdict(one) for one in measured]}
            options.json.write_text(json.dumps(results, indent=1) + "\n")
        headings = ("CPU seconds", *(f"{size:,}" for size in sizes), "exponents", "GiB at the largest")
        show_table(self.title, table(measured, sizes), headings)
        return 0

    def _options(self, argv: Sequence[str], description: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser(
            f"python -m {self.module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sizes_help = f"sizes ({self.sizes[0]:,} to {self.sizes[-1]:,})"
        parser.add_argument(
            f"--{self.of}", dest="sizes", type=int, nargs="+", default=self.sizes, metavar="N", help=sizes_help
        )
        parser.add_argument(
            "--pieces", nargs="+", choices=self.pieces, default=list(self.pieces), metavar="PIECE", help="which work"
        )
        parser.add_argument(
            "--most-s", type=float, default=20, help="CPU seconds after which a piece grows no more (20)"
        )
        parser.add_argument("--folder", type=Path, default=self.folder, help=f"for what is made ({self.folder})")
        parser.add_argument("--json", type=Path, help="write the results to this file")
        parser.add_argument("--here", choices=self.pieces, help=argparse.SUPPRESS)
        return parser.parse_args(list(argv))

    def measure_here(self, piece: str, size: int, folder: Path) -> Measured:
        """One piece of work in this process, whose peak of memory is forgotten before it begins."""
        work = self.pieces[piece](folder)
        Path("/proc/self/clear_refs").write_text("5")
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        return Measured(piece, size, time.process_time() - cpu, time.perf_counter() - wall, peak_gib())

    def _measure(self, piece: str, size: int, folder: Path) -> Measured:
        """One piece of work in a process of its own, on one core."""
        words = [sys.executable, "-m", self.module, "--here", piece, f"--{self.of}", str(size), "--folder", str(folder)]
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise DataError(f"{piece} of {size} {self.of}: exit code {done.returncode}; see above")
        return Measured(**json.loads(done.stdout.splitlines()[-1]))


def exponent(smaller: Measured, larger: Measured) -> float:
    """Of the growth of CPU seconds."""
    return math.log(larger.cpu_s / smaller.cpu_s) / math.log(larger.size / smaller.size)


def table(measured: Sequence[Measured], sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """A row a piece: the seconds at each size, the exponents between neighbours, the memory at the largest."""
    rows = []
    for piece in dict.fromkeys(one.piece for one in measured):
        of_size = {one.size: one for one in measured if one.piece == piece}
        seconds = [f"{of_size[size].cpu_s:.3f}" if size in of_size else "-" for size in sizes]
        known = [of_size[size] for size in sizes if size in of_size]
        growth = " ".join(f"{exponent(*pair):.2f}" for pair in pairwise(known))
        rows.append((piece, *seconds, growth, f"{known[-1].gib:.2f}"))
    return rows
