"""What a user can do about it: one line that names the thing, the value and the remedy, and an exit code.

SegtrainError                 a user's error (code 2); everything else keeps its traceback
├── ConfigError               a key, a value or a combination of values
├── DataError                 source files, store, split
├── LaunchError               processes, devices, ports
├── RunError                  the run directory
├── Diverged                  the loss is not finite (code 3)
└── Stopped                   asked to stop, saved, run the same command again (code 75, EX_TEMPFAIL)
"""

from typing import Literal

# The remedy for a patient that is of no use; predict takes no data.skip_bad.
LEAVE_OUT = "leave it out (in training data.skip_bad=true does so)"
# What reading a file raises that somebody wrote in, or that is half of one; for readers that go on without it.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError)
EXIT_FINISHED = 0
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_STOPPED = 75


class SegtrainError(Exception):
    """A user's error: its message is the one line that is shown."""

    exit_code = EXIT_USER_ERROR
    told_by: Literal["node", "rank", "main"] = "node"  # one process a node; the rank that has it; rank 0


class ConfigError(SegtrainError):
    """A configuration key, value or combination that cannot be used."""


class DataError(SegtrainError):
    """A source file, a store or a split that cannot be used."""


class LaunchError(SegtrainError):
    """Processes, devices or ports that do not fit the machine."""


class RunError(SegtrainError):
    """A run directory that cannot be used as asked."""


class Diverged(SegtrainError):
    """The training loss stopped being finite; the run's outcome is `diverged`."""

    exit_code = EXIT_DIVERGED
    told_by = "main"


class Stopped(SegtrainError):
    """The run was asked to stop and has saved; the same command goes on from there."""

    exit_code = EXIT_STOPPED
    told_by: Literal["node", "rank", "main"] = "main"
