"""The queue at work: starts what is due, has runs save and leave when it is time, records how each start ended.

One loop in the main thread, since the kernel ties "when the parent dies" to the thread that started a process. It is
also the one place that passes signals on: this process only notes them, the runs get one SIGTERM each.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from jobs import submission
from jobs.queue import machine
from jobs.queue.child import Child, start
from jobs.queue.diagnosis import Diagnosis, score
from jobs.queue.items import Item, Queue
from jobs.queue.journal import DONE, FAILED, Journal, QueueEnd, Standing, out_of_space, standing, stopped_by
from jobs.resources import Resources
from jobs.submission import Submission
from segtrain.data.store_folder import stores_folder
from segtrain.errors import EXIT_FINISHED, EXIT_STOPPED, EXIT_USER_ERROR, ConfigError, StopReason
from segtrain.runtime.stop import Deadline, Stop

log = logging.getLogger("segtrain.queue")

POLL_EVERY_S = 0.2
DISK_EVERY_S = 5.0
GONE_S = machine.ORPHANS_S  # that a run gets to save and leave before it is killed


class Observer(Protocol):
    """Follows the directories of the runs."""

    def look(self, at_work: Sequence[Path]) -> None:
        """These runs train; called again and again."""

    def push(self, run: Path) -> None:
        """A start of this run has ended."""


class Runner:
    """The starts of a queue's runs. Without a submission it makes one when the first run is due."""

    def __init__(
        self, queue: Queue, journal: Journal, stop: Stop, observer: Observer, end_s: float | None = None,
        submission: Submission | None = None,
    ) -> None:  # fmt: skip
        self.queue = queue
        self.journal = journal
        self.stop = stop
        self.observer = observer
        self.deadline = None if end_s is None else Deadline(end_s)
        self.gpus = machine.gpus()
        self.at_once = queue.at_once or max(1, len(self.gpus))
        self.children: list[Child] = []
        self.end: QueueEnd | None = None
        self._job = journal.job
        self._snapshot = submission
        self._disk_checked_at = float("-inf")
        self._due: list[Item] | None = None  # None: to be derived anew
        self._passed: set[str] = set()
        self._any_has_begun = False
        self._has_warned = False

    def run(self) -> QueueEnd:
        """Run the queue to its end; why it ended.

        Whatever it raises, no run is left behind: the machine may be switched off next.
        """
        try:
            return self._loop()
        except BaseException:
            self._end_children()
            raise

    def _loop(self) -> QueueEnd:
        while True:
            for child in [child for child in self.children if child.process.poll() is not None]:
                self._ended(child)
            self.observer.look([child.item.run.root for child in self.children])
            self.end = self.end or self._reason_to_end()
            if self.end:
                self._stop_children(self.end)
            else:
                self._start_what_is_due()
            if not self.children:
                if self.end:
                    return self.end
                if not self._what_is_due():
                    return DONE
            time.sleep(POLL_EVERY_S)

    def _reason_to_end(self) -> QueueEnd | None:
        if reason := self.stop.reason():
            return stopped_by(reason)
        if self.deadline and self.deadline.left_s() < 0:
            return stopped_by(StopReason.DEADLINE)
        if time.monotonic() - self._disk_checked_at > DISK_EVERY_S:
            self._disk_checked_at = time.monotonic()
            if trouble := machine.scarce([self.queue.folder, *self._stores()], self.queue.min_free_gib):
                return out_of_space(trouble)
        return None

    def _stores(self) -> list[Path]:
        """The folders of the runs' stores; without those of a config that training refuses."""
        folders = set()
        for item in self.queue.items:
            with suppress(ConfigError):
                folders |= {stores_folder(item.cfg.data).absolute()} if item.cfg else set()
        return sorted(folders)

    def _stop_children(self, end: QueueEnd) -> None:
        """SIGTERM, once: all ranks save and leave."""
        for child in self.children:
            if child.asked_at_s is None:
                log.info("%s: saving, since the queue stops: %s", child.item.name, end.sentence)
                child.asked_at_s = time.monotonic()
                child.process.terminate()
            elif time.monotonic() - child.asked_at_s > GONE_S:
                log.warning("%s: did not leave in %.0f s; killed", child.item.name, GONE_S)
                child.process.kill()

    def _end_children(self) -> None:
        """Have all save and leave; kill those that have not in `GONE_S`."""
        processes = [child.process for child in self.children]
        end = time.monotonic() + GONE_S
        try:
            for process in processes:
                process.terminate()
            while any(process.poll() is None for process in processes) and time.monotonic() < end:
                time.sleep(POLL_EVERY_S)
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def _what_is_due(self) -> list[Item]:
        """The runs to be started, in order; logs once of each run that it is passed over, and why."""
        if self._due is None:
            at_work = {child.item.name for child in self.children}
            others = [item for item in self.queue.items if item.name not in at_work]
            standings = {item.name: standing(item, self.journal) for item in others}
            self._due = [item for item in others if standings[item.name].due]
            for item in others:
                if standings[item.name].state not in ("finished", "due"):
                    self._pass_over(item, standings[item.name])
        return self._due

    def _pass_over(self, item: Item, one: Standing) -> None:
        if item.name in self._passed:
            return
        self._passed.add(item.name)
        going_on = "" if one.state == "held" or self.end else "; the others go on"
        log.warning("%s: %s, passed over: %s%s", item.name, one.state, one.why, going_on)
        about = {"run": item.name, "config": item.digest, "how": one.state, "why": one.why}
        entry = {"event": "pass", **about}
        if any(entry.items() <= written.items() for written in self.journal.since_done()):
            return  # by a queue that was cut off
        if one.state == "refused" and not one.starts:  # no start could record it
            self.journal.write("end", **about, code=EXIT_USER_ERROR, step=0)
        self.journal.write("pass", **about)

    def _start_what_is_due(self) -> None:
        for item in list(self._what_is_due()):
            taken = {gpu for child in self.children for gpu in child.gpus}
            free = [gpu for gpu in self.gpus if gpu not in taken]
            needs = self._gpus_of(item)
            if len(self.children) < self.at_once and needs <= len(free):
                self._start(item, free[:needs])

    def _gpus_of(self, item: Item) -> int:
        return 0 if item.cfg is None or item.cfg.device == "cpu" else min(item.processes, len(self.gpus))

    def _together(self, item: Item) -> int:
        """How many runs like it can be at work at once, which share the CPUs."""
        needs = self._gpus_of(item)
        most = min(self.at_once, len(self.gpus) // needs) if needs else self.at_once
        if self.queue.at_once and most < self.queue.at_once and not self._has_warned:
            self._has_warned = True
            log.warning(
                "at_once=%d, but a run takes %d of the %d GPU(s) here: %d at a time",
                self.queue.at_once,
                needs,
                len(self.gpus),
                most,
            )
        return most

    def _start(self, item: Item, gpus: Sequence[str]) -> None:
        step = item.run.saved_step()
        end_s = self.deadline.at_s() if self.deadline else None
        child = start(self.queue, item, self._submission(), self._job, gpus, self._together(item), end_s)
        self.children.append(child)
        self._due = None
        self.journal.write(
            "start", run=item.name, config=item.digest, step=step, gpus=child.gpus, pid=child.process.pid
        )
        where = f" on GPU {', '.join(gpus)}" if gpus else ""
        log.info("%s: started%s, %s", item.name, where, f"goes on at step {step}" if step else "from its beginning")

    def _submission(self) -> Submission:
        """The snapshot that this queue's starts come from."""
        if self._snapshot is None:
            items = [item for item in self.queue.items if item.cfg is not None]
            configs = [item.cfg for item in items if item.cfg]
            self._snapshot = submission.create(
                str(self.queue.folder.parent),
                self.queue.name,
                configs,
                Resources(),
                members=[{"name": item.name} for item in items],
                processes={item.name: item.processes for item in items},
            )
            self._snapshot.keep(runs={item.name: self._job for item in items})
        return self._snapshot

    def _ended(self, child: Child) -> None:
        """Record how a start ended."""
        self.children.remove(child)
        self._due = None
        item = child.item
        code, end = child.diagnosis(self.end)
        step = item.run.saved_step()
        reason = end.reason.name if end.reason else None
        self.journal.write(
            "end", run=item.name, config=item.digest, how=end.how, code=code, step=step, reason=reason, why=end.why
        )
        best = score(item.run.result())
        details = (f", best DSC {best}" if best else "") + (f": {end.why}" if end.why else "")
        log.info("%s: %s at step %d%s", item.name, end.how, step, details)
        self._consider_the_others(child, code, end)
        if item.run.root.is_dir() or self.queue.attended:
            self.observer.push(item.run.root)
        if end.how == "failed" and not self.end and standing(item, self.journal).due:
            log.info("%s: tried again", item.name)

    def _consider_the_others(self, child: Child, code: int, end: Diagnosis) -> None:
        """Whether the end of a start is the end of the queue."""
        if child.has_queue_deadline and end.reason is StopReason.DEADLINE:
            self.end = self.end or stopped_by(StopReason.DEADLINE)
        if not self.queue.attended:
            return
        for_all = end.reason is StopReason.STOP_FILE or (end.reason is StopReason.DEADLINE and child.has_fixed_deadline)
        if end.reason and for_all:
            self.end = self.end or stopped_by(end.reason)
        began = code in (EXIT_FINISHED, EXIT_STOPPED) or child.has_begun
        if end.how in ("refused", "diverged", "failed") and not began and not self._any_has_begun:
            self.end = self.end or FAILED
        self._any_has_begun |= began
