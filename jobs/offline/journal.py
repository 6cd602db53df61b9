"""The queue's journal, `journal.jsonl`: appended to, never changed. What becomes of a run follows from it.

begin   the command began: pid, host, runs
start   a run's process began: run, config (a digest), step, gpus
end     it ended: run, config, how (finished, stopped, failed, diverged, refused), code, step, why
pass    a failed run is passed over: run, why
left    the command ended: why (done, or what stopped it), code
hook    the command when done is run

A start without an end was cut off together with the queue: by a kill, a reboot, a reclaim. That is no failure of the
run's, but a run that is cut off again and again without a step gained is given up (jobs.history).
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.offline.plan import Item
from segtrain.errors import RunError, StopReason
from segtrain.runtime import files

DONE = "done"  # why it left: every run is finished or passed over
STOP_FILE = StopReason.STOP_FILE.sentence


class Journal:
    """The entries of a queue's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        self.entries = read(self.path)

    def write(self, event: str, **values: Any) -> None:
        """Append an entry, durably."""
        entry = {"time": datetime.now().astimezone().isoformat(timespec="milliseconds"), "event": event, **values}
        files.append_line(self.path, json.dumps(entry))
        self.entries.append(entry)

    @property
    def job(self) -> str:
        """What the starts are booked under (jobs.history): anew after each orderly end of the queue."""
        return f"offline-{sum(entry['event'] == 'left' for entry in self.entries)}"

    def since(self, *why: str) -> list[dict[str, Any]]:
        """The entries after the queue was last left for that reason; for any reason without one."""
        ends = [place for place, entry in enumerate(self.entries) if _is_end(entry, why)]
        return self.entries[ends[-1] + 1 :] if ends else list(self.entries)

    @property
    def begun(self) -> bool:
        """Whether any run was ever started."""
        return any(entry["event"] == "start" for entry in self.entries)

    def hook_has_run(self) -> bool:
        """Whether the command when done has run since the last start of a run.

        That the queue had ended is not enough: the last push and the command come after it, and may be cut short.
        """
        starts = [place for place, entry in enumerate(self.entries) if entry["event"] == "start"]
        return any(entry["event"] == "hook" for entry in self.entries[starts[-1] + 1 if starts else 0 :])

    def began_s(self) -> float:
        """When this budget of time began, in seconds since the epoch: kills, reboots and reclaims do not renew it."""
        entries = self.entries
        ends = [place for place, e in enumerate(entries) if e["event"] == "left" and e["why"] != "SIGTERM"]
        begins = [e for e in entries[ends[-1] + 1 if ends else 0 :] if e["event"] == "begin"]
        return datetime.fromisoformat(begins[0]["time"]).timestamp() if begins else time.time()


def read(path: Path) -> list[dict[str, Any]]:
    """The entries that are whole."""
    entries = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            entries.append(entry)
    return entries


def _is_end(entry: dict[str, Any], why: Sequence[str]) -> bool:
    return entry["event"] == "left" and (not why or entry["why"] in why)


@dataclass(frozen=True)
class Standing:
    """What a run of the queue has come to: finished; refused, diverged, failed, held (all passed over); due."""

    state: str
    why: str = ""
    starts: int = 0

    @property
    def due(self) -> bool:
        return self.state == "due"


def standing(item: Item, journal: Journal) -> Standing:
    """By the run's directory and the journal since the queue was last done. Another config counts anew."""
    if item.cfg is None:
        return Standing("refused", item.trouble)
    own = [e for e in journal.since(DONE) if e.get("run") == item.name and e.get("config") == item.digest]
    starts, ends = sum(e["event"] == "start" for e in own), [e for e in own if e["event"] == "end"]
    try:
        if item.run.finished(item.cfg):
            return Standing("finished", starts=starts)
    except RunError as error:
        return Standing("refused", str(error), starts)
    last = ends[-1] if ends else {"how": "none", "why": ""}
    failures = sum(end["how"] == "failed" for end in ends)
    if last["how"] in ("refused", "diverged"):
        return Standing(last["how"], last["why"], starts)
    if failures > item.retries:
        return Standing("failed", next(e["why"] for e in reversed(ends) if e["how"] == "failed"), starts)
    session = journal.entries[max((n for n, e in enumerate(journal.entries) if e["event"] == "begin"), default=0) :]
    if last["how"] == "stopped" and STOP_FILE in last["why"] and any(entry is last for entry in session):
        return Standing("held", last["why"], starts)  # until the command is given again
    return Standing("due", last["why"], starts)
