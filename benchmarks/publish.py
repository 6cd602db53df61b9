"""Write the results of the benchmarks into the documents, so that no figure is typed by hand.

python -m benchmarks.publish bench.json
python -m benchmarks.publish engines.json    # of `python -m benchmarks engines --json engines.json`
python -m benchmarks.publish peers.json      # of `python -m benchmarks.peers --json peers.json`
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import rows

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = DOCS / "bench.json"
ENGINES = DOCS / "engines.json"
PEERS = DOCS / "peers.json"
HEADINGS = ("row", "what", "ours", "baseline", "value", "target", "met")
MARKERS = "<!-- {0}: begin (python -m benchmarks.publish) -->\n", "<!-- {0}: end -->"
# File of results -> documents, each with the columns that it shows.
PLACES: dict[Path, dict[Path, tuple[str, ...]]] = {
    RESULTS: {DOCS / "performance.md": HEADINGS},
    ENGINES: {DOCS / "engines.md": ("what", "ours", "value")},
    PEERS: {DOCS / "performance.md": ()},  # a column a program
}


def cells(line: Mapping[str, Any]) -> list[str]:
    """A line of the results as the cells of a table."""
    words = {True: "yes", False: "no", None: ""}
    return [*(str(line[heading]) for heading in HEADINGS[:-1]), words[line["met"]]]


def markdown(results: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The table of all lines, below a line about the machine."""
    where, data = results["machine"], results["data"]
    lines = [dict(zip(HEADINGS, cells(line), strict=True)) for line in results["lines"]]
    table = [columns, ["---"] * len(columns), *([line[column] for column in columns] for line in lines)]
    about = (
        f"{where['cores']} cores of {where['cpu']} ({where['vector_units']}), torch {where['torch']}, {data} "
        f"patients, medians of up to {results['repeat']}:"
    )
    return f"{about}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def documents(file: Path, results: Mapping[str, Any]) -> dict[Path, str]:
    """The text that each document with the table of `file` should have."""
    begin, end = (marker.format("peers" if file == PEERS else "benchmarks") for marker in MARKERS)
    texts = {}
    for path, columns in PLACES[file].items():
        before, rest = path.read_text().split(begin)
        table = rows.markdown(results) if file == PEERS else markdown(results, columns)
        texts[path] = before + begin + table + end + rest.split(end, 1)[1]
    return texts


def _file_of(results: Mapping[str, Any]) -> Path:
    if "peers" in results:
        return PEERS
    return ENGINES if {line["row"] for line in results["lines"]} == {"engines"} else RESULTS


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(str(__doc__))
    results = json.loads(Path(sys.argv[1]).read_text())
    if results["tiny"]:
        sys.exit(f"{sys.argv[1]}: the figures of --tiny mean nothing; run the benchmarks without it")
    file = _file_of(results)
    for path, text in documents(file, results).items():
        path.write_text(text)
    file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
