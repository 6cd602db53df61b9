"""A run that trains elsewhere, seen from its files again and again: on a terminal, in a notebook, in a script.

for snapshot in watch("runs/lgg"):
    display(snapshot, clear=True)
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from segtrain.errors import DAMAGED, DamagedFile
from segtrain.report.albums import webp_url
from segtrain.report.figures import Series, lines
from segtrain.run.environment import Environment
from segtrain.run.live import EventTail, LiveFacts, facts_of, newest_warning
from segtrain.run.outcome import Outcome, State
from segtrain.run.ranks import Rank, late_after_s, rank_reports
from segtrain.run.reader import RunReader
from segtrain.runtime import files
from segtrain.runtime.terminal import duration
from segtrain.runtime.visible import in_one_line

EVERY_S = 5.0
QUIET_S = 600.0  # without a rank's report, as while data are prepared: after it a run is not there any more
BARS = "▁▂▃▄▅▆▇█"
SPARK = 40  # characters
Point = tuple[float, float]
LiveState = State | Literal["running", "stalled", "broken off", "unreadable"]


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment. A notebook shows it as facts, curves and the newest picture.

    stalled: no rank made progress for watch.stall_s. broken off: no sign of life, and nothing says how it ended.
    `age_s`: since the last event, by the clock of the file system that the run lies on. `message`: why it ended, or
    its newest warning. `loss`: (step, mean since the step before); `dsc`: (epoch, mean over patients).
    """

    name: str
    state: LiveState
    facts: LiveFacts = field(default_factory=LiveFacts)
    doing: str = ""
    age_s: float | None = None
    message: str = ""
    loss: Sequence[Point] = ()
    dsc: Sequence[Point] = ()
    picture: Path | None = None

    @property
    def ended(self) -> bool:
        """Whether the run has written down how it ended."""
        return self.state not in ("running", "stalled", "broken off", "unreadable")

    @property
    def parts(self) -> list[str]:
        """The facts as words, those that are known."""
        facts = self.facts
        best = f"best {facts.best_dsc:.4f} (epoch {facts.best_epoch})" if facts.best_dsc is not None else ""
        is_live = self.state in ("running", "stalled")
        words = (
            self.state if not (self.doing and is_live) else f"{self.state} ({self.doing})",
            f"epoch {facts.epoch}/{facts.epochs or '?'}",
            f"step {facts.step}",
            f"DSC {facts.score}" if facts.score else "",
            best,
            f"{facts.images_per_s:.1f} images/s" if facts.images_per_s is not None and not self.ended else "",
            f"{facts.left} left" if facts.left and is_live else "",
            f"last event {duration(self.age_s)} ago" if self.age_s is not None and not self.ended else "",
        )
        return [word for word in words if word]

    @property
    def text(self) -> str:
        """A block of lines for a terminal."""
        block = [f"{self.name}: {'  '.join(self.parts)}"]
        block += [
            f"  {name:<5}{spark([value for _, value in curve])}  {curve[0][1]:.4f} -> {curve[-1][1]:.4f}"
            for name, curve in (("loss", self.loss), ("DSC", self.dsc))
            if curve
        ]
        return "\n".join(map(in_one_line, [*block, *([f"  {self.message}"] if self.message else [])]))

    def _repr_html_(self) -> str:
        form = '<div style="max-width:64em"><b>{}</b> {}{}<div style="display:flex">{}{}</div>{}</div>'
        message = Markup("<br>{}").format(self.message) if self.message else ""
        loss = _figure("loss", self.loss, "step", unit=False)
        dsc = _figure("DSC", self.dsc, "epoch", unit=True)
        return str(Markup(form).format(self.name, " · ".join(self.parts), message, loss, dsc, self._picture()))

    def _picture(self) -> Markup:
        try:
            url = webp_url(self.picture) if self.picture else ""
        except (OSError, DamagedFile):  # it is being written
            url = ""
        caption = f"validation, epoch {self.facts.epoch}"
        return Markup('<img src="{}" alt="{}" style="max-width:100%">').format(url, caption) if url else Markup("")


def spark(values: Sequence[float], width: int = SPARK) -> str:
    """The values as a row of bars; of many, each bar is a mean."""
    count = min(width, len(values))
    edges = [place * len(values) // count for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((mean - low) / step)] for mean in means)


def _figure(title: str, curve: Sequence[Point], x_label: str, unit: bool) -> Markup:
    """A curve, of so few points that a page stays small."""
    if not curve:
        return Markup("")
    every = -(-len(curve) // 400)
    return Markup('<div style="flex:1">{}</div>').format(
        lines(title, [Series(title, [*curve[::-1][::every]][::-1], 0)], x_label, unit).svg
    )


class Watcher:
    """One run that is looked at again and again: of files that grow, only what is new is read."""

    def __init__(self, root: Path) -> None:
        """Raises RunError: there is no run."""
        self.run = RunReader(root)
        self.run.config_tree()
        self._tail = EventTail(self.run.metrics)
        self._ahead_s = files.now_s(root.parent) - time.monotonic()

    def look(self) -> Snapshot:
        """The run as it is now."""
        try:
            return self._look()
        except DAMAGED as error:
            return Snapshot(self.run.root.name, "unreadable", message=" ".join(str(error).split()))

    def _look(self) -> Snapshot:
        run, tail = self.run, self._tail
        outcome, starts = run.outcome(), run.known_starts()
        tail.look()
        facts = facts_of(tail.reached, run.planned_epochs())
        reports = rank_reports(run, _began_s(starts))
        now_s = self._ahead_s + time.monotonic()
        age_s = now_s - _changed_s(run.metrics) if tail.reached.last else None
        picture = run.validation_picture(facts.epoch)
        return Snapshot(
            name=run.root.name,
            state=_state(run, outcome, reports, now_s),
            facts=facts,
            doing=str(reports[0]["doing"]) if reports else "starting",
            age_s=None if age_s is None else max(0.0, age_s),
            message=(outcome.message if outcome else None) or newest_warning(run, starts) or "",
            loss=[(event.step, event.loss) for event in tail.training],
            dsc=[(event.epoch, event.val_dsc) for event in tail.evaluations],
            picture=picture if picture.is_file() else None,
        )


def watch(root: str | Path, every_s: float = EVERY_S) -> Iterator[Snapshot]:
    """Snapshots of a run, the first at once, until it has ended; that one is the last. Raises RunError: no run."""
    watcher = Watcher(Path(root))
    while not (snapshot := watcher.look()).ended:
        yield snapshot
        time.sleep(every_s)
    yield snapshot


def _state(run: RunReader, outcome: Outcome | None, reports: Sequence[Rank], now_s: float) -> LiveState:
    """By the times that the file system gave the run's files: clocks of other machines may differ."""
    if outcome:
        return outcome.state
    ages_s = [now_s - _changed_s(run.rank_state(int(rank["rank"]))) for rank in reports]
    quiet_s = now_s - max(map(_changed_s, (run.config_file, run.log_file, run.metrics)))
    longest_s = max(map(late_after_s, reports)) if reports else QUIET_S
    if min([quiet_s, *ages_s]) > longest_s:
        return "broken off"
    for rank, age_s in zip(reports, ages_s, strict=True):
        if rank["doing"] != "ended" and rank["time"] - rank["progressed"] + max(0.0, age_s) > rank["stall_s"]:
            return "stalled"
    return "running"


def _changed_s(file: Path) -> float:
    """When the file was last written; 0 where there is none."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _began_s(starts: Sequence[Environment]) -> float:
    try:
        return starts[-1].began_s
    except (IndexError, TypeError, ValueError):
        return 0.0
