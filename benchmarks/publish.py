"""Put the results of a run of the benchmarks into the documents, so that no figure is typed by hand.

python -m benchmarks.publish bench.json
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "bench.json"
HEADINGS = ("row", "what", "ours", "baseline", "value", "target", "met")
BEGIN, END = "<!-- benchmarks: begin (python -m benchmarks.publish) -->\n", "<!-- benchmarks: end -->"


def cells(line: Mapping[str, Any]) -> list[str]:
    """A line of the results as the cells of a table."""
    words = {True: "yes", False: "no", None: ""}
    return [*(str(line[heading]) for heading in HEADINGS[:-1]), words[line["met"]]]


def markdown(results: Mapping[str, Any], targets_only: bool) -> str:
    """The table of all lines, or of those with a target, under a line about the machine."""
    where, data = results["machine"], results["data"]
    lines = [cells(line) for line in results["lines"] if line["target"] or not targets_only]
    table = [list(HEADINGS), ["---"] * len(HEADINGS), *lines]
    about = (
        f"{where['cores']} cores of {where['cpu']} ({where['vector_units']}), torch {where['torch']}, {data} "
        f"patients, medians of up to {results['repeat']}:"
    )
    return f"{about}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def documents(results: Mapping[str, Any]) -> dict[Path, str]:
    """Each document with a place for the table, as it should be."""
    found = {}
    for path, targets_only in ((ROOT / "README.md", True), (ROOT / "docs" / "performance.md", False)):
        before, rest = path.read_text().split(BEGIN)
        found[path] = before + BEGIN + markdown(results, targets_only) + END + rest.split(END, 1)[1]
    return found


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(str(__doc__))
    results = json.loads(Path(sys.argv[1]).read_text())
    if results["tiny"]:
        sys.exit(f"{sys.argv[1]}: the figures of --tiny mean nothing; run the benchmarks whole")
    for path, text in documents(results).items():
        path.write_text(text)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
