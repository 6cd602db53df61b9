# mypy: ignore-errors
"""Schedules in the conventions of public ones, some with a trap: written for the tests, as their users would."""

import math

from torch.optim.lr_scheduler import LRScheduler


def step_decay(step, total_steps, drops=2, gamma=0.1):
    return gamma ** (step * (drops + 1) // total_steps)


def halves(progress):
    return 0.5 ** int(3 * progress)


def by_epoch(epoch, max_epochs):
    return 1 - epoch / max_epochs


def rates(step, total, base_lr):
    return base_lr * (1 - step / total) ** 0.9


def rates_as_numbers(step, total_steps):
    """Rates that know nothing of optim.lr."""
    return 3e-3 * (1 - step / total_steps)


def unnamed(x):
    """Of the progress, as only its values tell."""
    return math.sqrt(1 - x)


def unnamed_pair(i, n):
    return 1 - i / n


def either(x):
    """Of the step or of the progress: both give numbers between 0 and 1."""
    return 1 / (1 + x)


def too_low(step, total_steps):
    return 1e-9 * (1 + step)


def below_zero(step, total_steps):
    return 1 - 2 * step / total_steps


class Wave:
    """A class that needs no optimiser."""

    def __init__(self, total_steps, waves=2):
        self.total_steps, self.waves = total_steps, waves

    def __call__(self, step):
        return 0.5 + 0.5 * abs(math.cos(math.pi * self.waves * step / self.total_steps))


class PolyRate(LRScheduler):
    """Takes its first rate itself, and ignores the optimiser's."""

    def __init__(self, optimizer, initial_lr, max_steps, exponent=0.9, current_step=None):
        self.initial_lr, self.max_steps, self.exponent, self.ctr = initial_lr, max_steps, exponent, 0
        super().__init__(optimizer, current_step if current_step is not None else -1)

    def step(self, current_step=None):
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * (1 - current_step / self.max_steps) ** self.exponent


class NeverPoly(LRScheduler):
    """A condition that is never true."""

    def __init__(self, optimizer, max_iter, power=0.9, last_epoch=-1):
        self.max_iter, self.power = max_iter, power
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        if self.last_epoch > self.max_iter:
            return [lr * (1 - self.last_epoch / self.max_iter) ** self.power for lr in self.base_lrs]
        return list(self.base_lrs)


class Told:
    """Told the epoch, or the number of updates."""

    def __init__(self, optimizer, t_initial, lr_min=0.0, t_in_epochs=True):
        self.optimizer, self.t_initial, self.lr_min, self.t_in_epochs = optimizer, t_initial, lr_min, t_in_epochs
        self.first = optimizer.param_groups[0]["lr"]

    def _set(self, t):
        self.optimizer.param_groups[0]["lr"] = self.lr_min + (self.first - self.lr_min) * (1 - t / self.t_initial)

    def step(self, epoch, metric=None):
        if self.t_in_epochs:
            self._set(epoch)

    def step_update(self, num_updates, metric=None):
        if not self.t_in_epochs:
            self._set(num_updates)


class WarmUp(LRScheduler):
    """A warm-up of its own, counted in epochs, whose step may be given a metric."""

    def __init__(self, optimizer, multiplier, total_epoch, after_scheduler=None):
        self.multiplier, self.total_epoch, self.after_scheduler = multiplier, total_epoch, after_scheduler
        super().__init__(optimizer)

    def get_lr(self):
        done = min(1.0, self.last_epoch / self.total_epoch)
        return [lr * ((self.multiplier - 1) * done + 1) for lr in self.base_lrs]

    def step(self, epoch=None, metrics=None):
        super().step()


class Plateau:
    """Needs a metric."""

    def __init__(self, optimizer, patience=3):
        self.optimizer = optimizer

    def step(self, metrics):
        pass


NotCallable = 0.5
