"""The queue at work: starts what is due, has runs save and leave when it is time, writes down how each start ended.

One loop in the main thread, since the kernel ties "when the parent dies" to the thread that started a process.
"""

import logging
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from jobs import executors, submission
from jobs.history import Book
from jobs.offline import machine
from jobs.offline.diagnosis import how_of, last_words, score, tail
from jobs.offline.journal import DONE, Journal, Standing, standing
from jobs.offline.mirror import Mirror
from jobs.offline.plan import Item, Plan
from jobs.resources import Resources
from jobs.submission import Submission
from segtrain.config import Config, StopConfig, to_yaml
from segtrain.errors import EXIT_STOPPED, EXIT_USER_ERROR, ConfigError, StopReason
from segtrain.runtime import files
from segtrain.runtime.stop import Stop, deadline_of

log = logging.getLogger("segtrain.offline")

LOOK_EVERY_S = 0.2
DISK_EVERY_S = 5.0
DEADLINE = StopReason.DEADLINE.sentence
GONE_S = machine.ORPHANS_S  # from asking a run to stop to ending it


@dataclass
class Child:
    """A run's process."""

    item: Item
    process: "subprocess.Popen[bytes]"
    gpus: list[str]
    start_folder: Path
    book: Book
    log: Path
    offset: int  # where this start's words begin in the log
    until_s: float | None  # the queue's deadline, where the run was given that
    asked_s: float | None = None  # since when it is asked to stop


class Runner:
    """The starts of a queue's runs."""

    def __init__(self, plan: Plan, journal: Journal, stop: Stop, mirror: Mirror, end_s: float | None) -> None:
        self.plan, self.journal, self.stop, self.mirror, self.end_s = plan, journal, stop, mirror, end_s
        self.gpus = machine.gpus()
        self.at_once = plan.spec.at_once or max(1, len(self.gpus))
        self.children: list[Child] = []
        self.why = ""  # it leaves
        self._job = journal.job
        self._made: Submission | None = None
        self._disk_at = float("-inf")
        self._due: list[Item] | None = None  # None: to be found out
        self._passed: set[str] = set()

    def run(self) -> str:
        """Run the queue to its end; why it ended: `done`, a reason of segtrain.runtime.stop, or the disk.

        Whatever it raises, no run is left behind: the machine may be switched off next.
        """
        try:
            return self._loop()
        except BaseException:
            self._end_them()
            raise

    def _loop(self) -> str:
        while True:
            for child in [child for child in self.children if child.process.poll() is not None]:
                self._ended(child)
            self.mirror.look([child.item.run.root for child in self.children])
            self.why = self.why or self._reason_to_stop()
            if self.why:
                self._have_them_stop()
            else:
                self._start_what_is_due()
            if not self.children:
                if self.why:
                    return self.why
                if not self._what_is_due():
                    return DONE
            time.sleep(LOOK_EVERY_S)

    def _reason_to_stop(self) -> str:
        if reason := self.stop.reason():
            return reason.sentence
        if self.end_s is not None and time.time() > self.end_s:
            return DEADLINE
        if time.monotonic() - self._disk_at > DISK_EVERY_S:
            self._disk_at = time.monotonic()
            stores = {Path(item.cfg.data.store).absolute() for item in self.plan.items if item.cfg}
            return machine.scarce([self.plan.folder, *sorted(stores)], self.plan.spec.min_free_gib) or ""
        return ""

    def _have_them_stop(self) -> None:
        """SIGTERM, once: all ranks save and leave."""
        for child in self.children:
            if child.asked_s is None:
                log.info("%s: saving, since the queue stops: %s", child.item.name, self.why)
                child.asked_s = time.monotonic()
                child.process.terminate()
            elif time.monotonic() - child.asked_s > GONE_S:
                log.warning("%s: did not leave in %.0f s; killed", child.item.name, GONE_S)
                child.process.kill()

    def _end_them(self) -> None:
        """Have all save and leave; kill those that have not in `GONE_S`."""
        processes, end = [child.process for child in self.children], time.monotonic() + GONE_S
        try:
            for process in processes:
                process.terminate()
            while any(process.poll() is None for process in processes) and time.monotonic() < end:
                time.sleep(LOOK_EVERY_S)
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def _what_is_due(self) -> list[Item]:
        """The runs to be started, in order; says once of each run that it is passed over, and why."""
        if self._due is None:
            at_work = {child.item.name for child in self.children}
            found = {i.name: standing(i, self.journal) for i in self.plan.items if i.name not in at_work}
            self._due = [item for item in self.plan.items if item.name in found and found[item.name].due]
            for item in self.plan.items:
                if item.name in found and found[item.name].state not in ("finished", "due"):
                    self._pass_over(item, found[item.name])
        return self._due

    def _pass_over(self, item: Item, found: Standing) -> None:
        if item.name in self._passed:
            return
        self._passed.add(item.name)
        again = "" if found.state == "held" else "; the others go on"
        log.warning("%s: %s, passed over: %s%s", item.name, found.state, found.why, again)
        about = {"run": item.name, "config": item.digest, "how": found.state, "why": found.why}
        told = {"event": "pass", **about}
        if any(told.items() <= entry.items() for entry in self.journal.since(DONE)):
            return  # by a queue that was cut off
        if found.state == "refused" and not found.starts:  # it never came to a start that could have told
            self.journal.write("end", **about, code=EXIT_USER_ERROR, step=0)
        self.journal.write("pass", **about)

    def _start_what_is_due(self) -> None:
        for item in list(self._what_is_due()):
            taken = {gpu for child in self.children for gpu in child.gpus}
            free = [gpu for gpu in self.gpus if gpu not in taken]
            needs = 0 if item.cfg is None or item.cfg.device == "cpu" else min(item.processes, len(self.gpus))
            if len(self.children) < self.at_once and needs <= len(free):
                self._start(item, free[:needs])

    def _start(self, item: Item, gpus: Sequence[str]) -> None:
        made, book = self._submission(), Book(item.run)
        cfg, until_s = self._as_started(item)
        files.write_text(made.config(item.name), to_yaml(cfg))
        restart = sum(entry["event"] == "start" for entry in book.entries(self._job))
        words = self.plan.folder / "logs" / f"{item.name}.log"
        words.parent.mkdir(exist_ok=True)
        step, held = item.run.saved_step(), machine.mark(self.plan.folder)
        try:
            with words.open("ab") as output:
                offset = output.tell()
                process = executors.start(
                    made, item.name, (self._job, restart), {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {},
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, pass_fds=(held,),
                )  # fmt: skip
        finally:
            os.close(held)
        folder = book.start_folder(self._job, restart)
        self.children.append(Child(item, process, list(gpus), folder, book, words, offset, until_s))
        self._due = None
        self.journal.write("start", run=item.name, config=item.digest, step=step, gpus=list(gpus), pid=process.pid)
        where = f" on GPU {', '.join(gpus)}" if gpus else ""
        log.info("%s: started%s, %s", item.name, where, f"goes on at step {step}" if step else "from its beginning")

    def _submission(self) -> Submission:
        """The snapshot that this queue's starts come from."""
        if self._made is None:
            items = [item for item in self.plan.items if item.cfg is not None]
            runs_dir, configs = str(self.plan.folder.parent), [item.cfg for item in items if item.cfg]
            self._made = submission.create(
                runs_dir, self.plan.spec.name, configs, Resources(),
                members=[{"name": item.name} for item in items], processes={i.name: i.processes for i in items},
            )  # fmt: skip
            self._made.keep(runs={item.name: self._job for item in items})
        return self._made

    def _as_started(self, item: Item) -> tuple[Config, float | None]:
        """The config of a start, which knows when the queue ends, and whether it leaves therefore: then when."""
        assert item.cfg is not None, "only what has a config is due"
        cfg = item.cfg
        if self.at_once > 1 and cfg.threads_per_rank is None:
            cores = len(os.sched_getaffinity(0)) // (self.at_once * item.processes)
            cfg = replace(cfg, threads_per_rank=max(1, cores))
        try:
            own_s = deadline_of(cfg.stop.deadline, time.time(), ask_slurm=False)
        except ConfigError:  # the training says so itself
            return cfg, None
        if self.end_s is None or (own_s is not None and own_s < self.end_s):
            return cfg, None
        at = datetime.fromtimestamp(self.end_s).astimezone().isoformat(timespec="seconds")
        return replace(cfg, stop=StopConfig(at)), self.end_s

    def _ended(self, child: Child) -> None:
        """Write down how a start ended."""
        self.children.remove(child)
        self._due = None
        item, code = child.item, child.process.returncode
        why = last_words(code, child.start_folder, child.book, self._job, tail(child.log, child.offset))
        if child.asked_s is not None and code not in (0, 2, 3):
            code = EXIT_STOPPED  # also when it was cut off before it could save
        how, step = how_of(code), item.run.saved_step()
        if how == "stopped" and child.asked_s is not None:
            why = f"the queue stops: {self.why}"
        elif how == "stopped" and child.until_s is not None and DEADLINE in why:
            self.why = self.why or DEADLINE
        self.journal.write("end", run=item.name, config=item.digest, how=how, code=code, step=step, why=why)
        best = score(item.run.result())
        said = (f", best DSC {best}" if best else "") + (f": {why}" if why else "")
        log.info("%s: %s at step %d%s", item.name, how, step, said)
        if item.run.root.is_dir():
            self.mirror.push(item.run.root)
        if how == "failed" and standing(item, self.journal).due:
            log.info("%s: tried again", item.name)
