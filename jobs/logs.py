"""The output of a run's newest start: `segtrain logs NAME [-f]`, or `python -m jobs.logs`."""

import argparse
import codecs
import difflib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from jobs import lookup
from jobs.outputs import Output, outputs
from jobs.overview import Listed, listing, row
from jobs.queue import journal
from jobs.run_state import BROKEN, unreadable
from segtrain.errors import EXIT_FINISHED, RunError
from segtrain.run.reader import refuse_private
from segtrain.runtime.process import main
from segtrain.runtime.terminal import show
from segtrain.runtime.visible import in_lines

POLL_EVERY_S = 0.5
LOOK_EVERY_S = 5.0  # whether the job has ended
SURE_S = 3.0  # after which a job that is being put back into the queue is in it again
SHOWN = 5  # names in an error
LIVES = ("none", "running", "stalled")  # states without SLURM in which there may be more to come
EXAMPLES = """\
examples:
  segtrain logs lgg
  segtrain logs loss/dice-fold0-seed42 -f           # a run of an ablation or a queue, as segtrain status names it
  segtrain logs loss/report --runs-dir /scratch/runs

The newest start's output is printed: all ranks' and nodes' lines, those of several nodes marked. With -f it is
followed, also when the job is preempted and comes back, until the job has ended. Of what is trained in the foreground
it is the run's log.txt.
"""


def command(argv: Sequence[str]) -> int:
    """Print the output, or follow it; returns the exit code."""
    parser = argparse.ArgumentParser(
        "segtrain logs",
        description="Show the output of a run's newest start.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="of a run, as segtrain status shows it")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended, over restarts")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    arguments = parser.parse_args(list(argv))
    refuse_private(arguments.runs_dir)
    if not arguments.runs_dir.is_dir():
        raise RunError(f"{arguments.runs_dir}: no such folder; name with --runs-dir the one that holds the runs")
    one = _named(arguments.runs_dir, arguments.name.strip("/"))
    try:
        if arguments.follow:
            _follow(one)
        else:
            _show(one)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `head` has seen enough; nothing may be left to be written at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FINISHED


def _named(runs_dir: Path, name: str) -> Listed:
    """The run, or the report, of that name. Raises RunError."""
    runs = listing(runs_dir.absolute())
    of_name = [one for one in runs if one.name == name] or [one for one in runs if one.root.name == name]
    if len(of_name) == 1:
        if trouble := of_name[0].trouble:
            raise RunError(str(trouble)) from trouble
        return of_name[0]
    several = of_name or [one for one in runs if one.name.startswith(f"{name}/")]
    if several:
        names = ", ".join(one.name for one in several[:SHOWN]) + (", ..." if len(several) > SHOWN else "")
        raise RunError(f"{name}: {len(several)} runs in {runs_dir} have this name; name one of them: {names}")
    near = difflib.get_close_matches(name, [one.name for one in runs], n=SHOWN)
    hint = f"did you mean {', '.join(near)}?" if near else "see segtrain status, or name the folder with --runs-dir"
    raise RunError(f"{name}: no run of this name in {runs_dir}; {hint}")


class _Tail:
    """A file that is read as it grows."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.offset = output.newest_start()
        self._rest = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self, to_the_end: bool = False) -> None:
        """Print what is new. Lines of several nodes are marked, and are printed when they are whole."""
        try:
            with self.output.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self.offset:  # somebody has emptied it
                    self.offset = 0
                file.seek(self.offset)
                content = file.read()
        except OSError:  # the folder is away for a while
            return
        self.offset += len(content)
        if label := self.output.label:
            *lines, self._rest = (self._rest + content).split(b"\n")
            if to_the_end and self._rest:
                lines, self._rest = [*lines, self._rest], b""
            content = b"".join(label.encode() + line + b"\n" for line in lines)
        sys.stdout.write(in_lines(_unreturned(self._decoder.decode(content))))
        sys.stdout.flush()


def _unreturned(text: str) -> str:
    """With the end of a line where a bar was drawn anew in place."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _show(one: Listed) -> None:
    """Print what the newest start has written. Raises RunError: nothing."""
    files_of_run = outputs(one)
    if not files_of_run:
        known = row(one, lookup.ask([one.job] if one.job else []), time.time())
        job = f", job {one.job.id}" if one.job else ""
        why = f": {known['why']}" if known["why"] else ""
        raise RunError(f"{one.name}: has written nothing yet ({known['state']}{job}{why}); follow it with -f")
    for output in files_of_run:
        _Tail(output).show(to_the_end=True)


def _follow(one: Listed) -> None:
    """Print what is written until the job has ended."""
    tails: dict[Path, _Tail] = {}
    last_look_s, notice, has_ended = float("-inf"), "", False
    while True:
        for output in outputs(one):
            if output.path not in tails:
                tails[output.path] = _Tail(output)
            tails[output.path].output = output  # the first node's lines are marked as soon as there is a second
        for tail in tails.values():
            tail.show(to_the_end=has_ended)
        if has_ended:
            return
        if time.monotonic() - last_look_s >= LOOK_EVERY_S:
            last_look_s = time.monotonic()
            one = _with_its_job(one)
            has_ended, state = _look(one)
            if not has_ended and state != notice and (not tails or state.startswith("SLURM")):
                show(f"segtrain: {one.name}: {state}", errors=True)
            notice = state
        time.sleep(0.0 if has_ended else POLL_EVERY_S)


def _with_its_job(one: Listed) -> Listed:
    """The same with the job that its submission names now: where SLURM requeues none, a run goes on in another job."""
    with suppress(*BROKEN):
        if one.submission and not one.is_report:
            return replace(one, job=one.submission.jobs()[one.root.name][1])
    return one


def _look(one: Listed) -> tuple[bool, str]:
    """Whether its job has ended, and its state, for people."""
    answer = lookup.ask([one.job] if one.job else [])
    try:
        known = row(one, answer, time.time())
    except BROKEN as error:
        known = unreadable(error)
    state = known["state"] + (f": {known['why']}" if known["why"] else "")
    if one.job is None or not one.job.is_slurms:
        return _has_ended_here(one, known["state"]), state
    if unknown := answer.unknown.get(one.job):
        return False, unknown
    # While a job is put back into the queue SLURM may show it as ended for a moment.
    has_ended = one.job not in answer.alive
    if has_ended:
        time.sleep(SURE_S)
        again = lookup.ask([one.job])
        has_ended = one.job not in again.alive and one.job not in again.unknown
    return has_ended, state


def _has_ended_here(one: Listed, state: str) -> bool:
    """Whether nothing more comes of a run that was started without SLURM: by the journal of its queue, or its state."""
    if state in ("broken off", "unreadable") or one.submission is None or one.job is None:
        return state not in LIVES
    folder = one.root.parent if one.job.id.startswith("offline-") else one.submission.root
    entries = journal.read(folder / journal.FILE)
    ours = [entry for entry in entries if entry.get("run") in (None, one.root.name) and entry["event"] != "hook"]
    if not ours:
        return state not in LIVES
    last = ours[-1]
    return last["event"] in ("left", "pass") or last.get("how") in ("finished", "refused", "diverged")


if __name__ == "__main__":
    sys.exit(main(command))
