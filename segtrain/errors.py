"""The tree of exceptions, their exit codes, and reasons to stop.

A message is one line that names the thing, the value and the remedy.

SegtrainError                 a user's error (code 2); everything else keeps its traceback
├── ConfigError               a key, a value or a combination of values
│   └── NoFoldLeft            to confirm a search on
├── DataError                 source files, store, split
├── LaunchError               processes, devices, ports
├── RunError                  the run directory
│   ├── BaselineIsBest        of a search, so that there is nothing to confirm
│   └── DamagedFile           a file in it is not what was written; a ValueError too, for readers that go on without it
├── Diverged                  the loss is not finite (code 3)
└── Stopped                   asked to stop, saved, run the same command again (code 75, EX_TEMPFAIL)
"""

from enum import IntEnum

# The remedy for a patient that cannot be used; predict has no data.skip_bad.
LEAVE_OUT = "leave it out (in training data.skip_bad=true does so)"
# What reading a damaged or half-written file raises, for readers that go on without it.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
LONGEST_MESSAGE = 2000  # letters
LONGEST_GIST = 200  # of another's message within ours
EXIT_FINISHED = 0
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_STOPPED = 75


def gist(error: BaseException | str) -> str:
    """The start of an error's message, in one line."""
    return " ".join(str(error).split())[:LONGEST_GIST]


class SegtrainError(Exception):
    """A user's error: its message is the one line that is shown."""

    exit_code = EXIT_USER_ERROR

    def __str__(self) -> str:
        """Without the middle where a value in it is endless: the name of the file stands first, the remedy last."""
        message = super().__str__()
        if len(message) <= LONGEST_MESSAGE:
            return message
        return f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the one line."""
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(self))
        return [f"{type(self).__name__}: {text}"]


class ConfigError(SegtrainError):
    """A configuration key, value or combination that cannot be used."""


class NoFoldLeft(ConfigError):
    """A search whose runs leave no fold to confirm its best on."""


class DataError(SegtrainError):
    """A source file, a store or a split that cannot be used."""


class LaunchError(SegtrainError):
    """Processes, devices or ports that do not fit the machine."""


class RunError(SegtrainError):
    """A run directory that cannot be used as asked."""


class BaselineIsBest(RunError):
    """A search none of whose variants is better than its baseline."""


class DamagedFile(RunError, ValueError):
    """A file of a run that is not what was written, so that reading it again would not help."""


class Diverged(SegtrainError):
    """The training loss stopped being finite; the run's outcome is `diverged`."""

    exit_code = EXIT_DIVERGED


class StopReason(IntEnum):
    """Why a process saves and leaves before its work is done.

    Code decides on the value, ranks agree on it, files hold its name; `sentence` is for people and may be reworded.
    """

    SIGTERM = 1
    SIGINT = 2
    SIGUSR1 = 3
    SIGUSR2 = 4
    STOP_FILE = 5
    DEADLINE = 6
    OUT_OF_MEMORY = 7
    RECLAIM = 8  # of a queue's machine
    SIGHUP = 9  # its terminal was closed

    @property
    def sentence(self) -> str:
        """What stopped it, to stand after "stopped by"."""
        return {
            StopReason.STOP_FILE: "the STOP file",
            StopReason.DEADLINE: "the deadline",
            StopReason.OUT_OF_MEMORY: "a lack of memory",
            StopReason.RECLAIM: "the notice that this machine is taken back",
        }.get(self, self.name)

    @property
    def is_for_the_launch(self) -> bool:
        """Whether processes that torchrun starts again must not go on.

        torchrun itself sends SIGTERM, as when a node joins; and a lack of memory ends with the process.
        """
        return self not in (StopReason.SIGTERM, StopReason.OUT_OF_MEMORY)


class Stopped(SegtrainError):
    """The run was asked to stop and has saved; the same command goes on from there."""

    exit_code = EXIT_STOPPED

    def __init__(self, message: str, reason: StopReason | None = None) -> None:  # the default is for pickle
        super().__init__(message)
        self.reason = reason
