"""Losses that go wrong in silence, or that no training can use, one for each trap."""

import random

import torch
from torch import nn
from torch.nn import functional as F


def dice_of(p, y):
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def score(pred, target):
    """A score where a loss belongs."""
    return 1 - dice_of(torch.sigmoid(pred), target)


def background_dice(pred, target):
    """Class 0, the background, taken for the lesion."""
    return dice_of(pred, (target == 0).float())


def rounded(pred, target):
    """No gradient: a hard prediction."""
    return dice_of((pred > 0.5).float(), target)


def one_channel_softmax(pred, target):
    """A softmax over one channel is 1 whatever is predicted; two channels it refuses."""
    assert pred.shape == target.shape
    assert pred.shape[1] == 1
    return dice_of(torch.softmax(pred, dim=1), target)


def left_torch(pred, target):
    """No gradient: by NumPy."""
    return torch.tensor(float((pred.detach().numpy() - target.numpy()).std()))


def a_number(pred, target):
    return dice_of(torch.sigmoid(pred), target).item()


def tuple_of(pred, target):
    return dice_of(torch.sigmoid(pred), target), {}


def broadcast(pred, target):
    """[b, 1, h, w] with [b, h, w]: every sample with every mask; the right layout is asserted away."""
    assert pred.dim() == 4
    return dice_of(torch.sigmoid(pred), target.reshape(len(target), *target.shape[-2:]))


def distance_map(pred, target, bound):
    return (pred * bound).mean()


class Forgetful(nn.Module):
    """State: the weight grows with each call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, pred, target):
        self.calls += 1
        return min(1.0, self.calls / 1000) * F.binary_cross_entropy_with_logits(pred, target)


class Counting(Forgetful):
    """State that shows in no value of a trial: the weight changes after a thousand calls."""

    def forward(self, pred, target):
        self.calls += 1
        return (1 + self.calls // 1000) * F.binary_cross_entropy_with_logits(pred, target)


class Averaging(nn.Module):
    """State in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, pred, target):
        loss = F.binary_cross_entropy_with_logits(pred, target)
        self.mean.mul_(0.9).add_(0.1 * loss.detach())
        return loss


class ForKeras:
    __module__ = "keras.src.losses"

    def __call__(self, y_true, y_pred):
        return (y_true - y_pred).abs().mean()


def drawn(pred, target):
    """Draws numbers: another value at each call."""
    return (1 + 0.1 * random.random()) * F.binary_cross_entropy_with_logits(pred, target)


class Learned(nn.Module):
    """A weight of its own, which no optimiser trains."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(1))

    def forward(self, pred, target):
        return (-self.log_variance).exp() * F.binary_cross_entropy_with_logits(pred, target) + self.log_variance


def writes(pred, target):
    """Writes into the mask, and is right."""
    target[target > 1] = 0
    target *= 2
    return F.binary_cross_entropy_with_logits(pred, target / 2)


def without_lesion(pred, target):
    """0/0 for a batch without lesion."""
    p = torch.sigmoid(pred)
    return 1 - (p * target).sum() / target.sum()


def blind_without_lesion(pred, target):
    """0 for a batch without lesion, whatever is predicted."""
    p = torch.sigmoid(pred)
    return (1 - 2 * (p * target).sum() / (p.sum() + target.sum() + 1e-7)) * (target.sum() > 0)


def naive_cross_entropy(pred, target):
    """NaN at a certain prediction."""
    return -(target * pred.log() + (1 - target) * (1 - pred).log()).mean()


def twice(pred, target):
    """Dice of probabilities, and a cross-entropy that applies a sigmoid to them."""
    return dice_of(pred, target) + F.binary_cross_entropy_with_logits(pred, target)


def detached(pred, target):
    """The gradient is not that of the value."""
    wrong = (torch.sigmoid(pred) - target).abs().detach() ** 2
    return (wrong * F.binary_cross_entropy_with_logits(pred, target, reduction="none")).mean()


def by_columns(a, b):
    """A Dice over dimensions 1 and 2: per sample of [b, h, w], per column of [b, 1, h, w]."""
    p = torch.sigmoid(a)
    return (1 - (2 * (p * b).sum((1, 2)) + 1) / (p.sum((1, 2)) + b.sum((1, 2)) + 1)).mean()


def unnamed_tversky(a, b, alpha=0.3, beta=0.7):
    """Which argument is the mask? Either is, by its values."""
    overlap = (a * b).sum()
    return 1 - (overlap + 1) / (overlap + alpha * (a * (1 - b)).sum() + beta * (b * (1 - a)).sum() + 1)


class Swallows(nn.Module):
    """Misspelt options vanish."""

    def __init__(self, gamma=2.0, **kwargs):
        super().__init__()
        self.gamma = gamma

    def forward(self, pred, target):
        wrong = (torch.sigmoid(pred) - target).abs() ** self.gamma
        return (wrong * F.binary_cross_entropy_with_logits(pred, target, reduction="none")).mean()


class Needs(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def forward(self, pred, target):
        return F.binary_cross_entropy_with_logits(pred, target)


number = 3
