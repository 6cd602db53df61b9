"""Times of events; durations of steps, patients and saves: when a save is due, how long the next work may take."""

import time


class EventClock:
    """The times of a run's events, in seconds since the epoch: they never go back, even where the clock is set back.

    A start takes the clock's time once and then counts monotonic seconds. `not_before_s`: the time of the last event.
    """

    def __init__(self, not_before_s: float = 0.0) -> None:
        self._zero_s = max(time.time(), not_before_s) - time.monotonic()

    def now_s(self) -> float:
        """The time of an event now."""
        return round(self._zero_s + time.monotonic(), 3)


class Clock:
    """Measures this rank's work between the points at which ranks agree whether to save or to stop."""

    def __init__(self, save_every_min: float) -> None:
        self._save_every_s = 60 * save_every_min
        self._saved_at = self._began_at = time.monotonic()
        self._longest_step_s = 0.0  # since the last save
        self._longest_patient_s = 0.0  # of all evaluations

    def begin(self) -> None:
        """A step, or an evaluation's first patient, begins now."""
        self._began_at = time.monotonic()

    def step_is_done(self) -> None:
        """Remember how long the step took."""
        self._longest_step_s = max(self._longest_step_s, time.monotonic() - self._began_at)

    def patient_is_done(self) -> None:
        """Remember how long the patient took; the next one begins now."""
        now = time.monotonic()
        self._longest_patient_s = max(self._longest_patient_s, now - self._began_at)
        self._began_at = now

    def save_is_due(self) -> bool:
        """Whether the last save was `checkpoint.every_min` ago."""
        return time.monotonic() - self._saved_at > self._save_every_s

    def saved(self) -> None:
        """A save was begun now."""
        self._saved_at = time.monotonic()
        self._longest_step_s = 0.0

    def margin_s(self, write_s: float, evaluating: bool) -> float:
        """Twice what the next step (or patient, when `evaluating`) and writing a checkpoint took at most so far.

        `runtime.stop` adds SAFETY_S to it before a deadline.
        """
        return 2 * ((self._longest_patient_s if evaluating else self._longest_step_s) + write_s)
