"""Runs in SwanLab (0.10: swanlab.init, Run.log, Settings).

A curve takes no step that is not above its last one, on the server too, so no point is there twice. Times are those of
the sending: SwanLab takes no others.
"""

from typing import Any

from segtrain.run.tracked import Sent
from segtrain.runtime.optional_package import package
from segtrain.tracking.record import Record
from segtrain.tracking.tracker import Destination, explained

STATES = {"finished": "success", "running": "success", "stopped": "aborted"}
# About this machine, which is not the one that trained, and what its terminal shows.
LEFT_OUT: dict[str, Any] = {
    "interactive": False,
    "probe": dict.fromkeys(("hardware", "runtime", "requirements", "conda", "git", "swanlab", "monitor"), False),
    "console": {"proxy_type": "none"},
}


class SwanlabRuns:
    """A project of SwanLab."""

    def __init__(self, to: Destination) -> None:
        """Raises ConfigError: no swanlab."""
        self._swanlab = package("swanlab", "--to swanlab")
        self._to = to

    @property
    def place(self) -> str:
        return self._to.words("swanlab", self._to.offline)

    def sent(self, record: Record) -> Sent | None:
        return None

    def send(self, record: Record, after: int) -> str:
        swanlab, offline = self._swanlab, self._to.offline
        settings = {key: value for key, value in record.settings.items() if value is not None}
        kinds = (RuntimeError, ValueError, AssertionError, OSError, swanlab.exceptions.AuthenticationError)
        remedy = "set SWANLAB_API_KEY, run swanlab login, or write files by --offline"
        with explained(self.place, kinds, remedy):
            run = swanlab.init(
                project=self._to.project,
                name=record.name,
                id=record.id,
                group=record.group,
                log_dir=str(self._to.folder) if self._to.folder else None,
                mode="offline" if offline else "online",
                resume=None if offline else "allow",
                config={**settings, "scores": dict(record.scores), "facts": dict(record.facts)},
                settings=swanlab.Settings(**LEFT_OUT),
            )
            try:
                for point in record.points:
                    if point.position > after:
                        run.log(dict(point.values), step=point.step)
            finally:
                where = str(run.dir if offline else run.url)
                state = STATES.get(record.state, "crashed")
                swanlab.finish(state=state, error=None if state != "crashed" else record.state)
        return f"{where}; to send it: swanlab sync --id {record.id} {where}" if offline else where
