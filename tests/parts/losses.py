"""Losses as people write them, one for each convention of the public ones; all are right."""

import torch
from torch import nn
from torch.nn import functional as F


class ReferenceDice(nn.Module):
    """On probabilities, the whole batch as one volume, as the reference program's."""

    def __init__(self):
        super().__init__()
        self.smooth = 1.0

    def forward(self, y_pred, y_true):
        assert y_pred.size() == y_true.size()
        y_pred = y_pred[:, 0].contiguous().view(-1)
        y_true = y_true[:, 0].contiguous().view(-1)
        intersection = (y_pred * y_true).sum()
        return 1.0 - (2.0 * intersection + self.smooth) / (y_pred.sum() + y_true.sum() + self.smooth)


class BCEDice(nn.Module):
    """On logits, Dice per sample."""

    def __init__(self, smooth=1e-5, dice_weight=1):
        super().__init__()
        self.smooth, self.dice_weight = smooth, dice_weight

    def forward(self, input, target):
        bce = F.binary_cross_entropy_with_logits(input, target)
        p = torch.sigmoid(input).view(len(target), -1)
        y = target.view(len(target), -1)
        score = (2.0 * (p * y).sum(1) + self.smooth) / (p.sum(1) + y.sum(1) + self.smooth)
        return 0.5 * bce + self.dice_weight * (1 - score.sum() / len(target))


class NegativeDice(nn.Module):
    """On probabilities, from -1 to 0; label map or one-hot, guessed from the shape."""

    def forward(self, x, y, loss_mask=None):
        if y.dim() == x.dim() - 1:
            y = y[:, None]
        axes = tuple(range(2, x.dim()))
        overlap = (x * y).sum(axes)
        return -((2 * overlap + 1) / (x.sum(axes) + y.sum(axes) + 1)).mean()


class TwoChannelFocal(nn.Module):
    """On probabilities of all classes, with a mask of indices [b, 1, h, w]."""

    def __init__(self, gamma=2):
        super().__init__()
        self.gamma = gamma

    def forward(self, prob, target):
        if prob.shape[1] < 2:
            raise ZeroDivisionError("smoothing over one class")
        p = prob.gather(1, target.view(len(target), 1, *target.shape[-2:])).clamp(1e-6, 1.0)
        return (-((1 - p) ** self.gamma) * p.log()).mean()


class IndexCrossEntropy(nn.CrossEntropyLoss):
    """On logits of all classes, with a mask of indices that may have a channel."""

    def forward(self, inp, target):
        if target.dim() == inp.dim():
            assert target.shape[1] == 1
            target = target[:, 0]
        return super().forward(inp, target.long())


class SoftmaxDice(nn.Module):
    """Two channels of logits, indices [b, h, w], one-hot inside, the whole batch; softmax over one channel is 1."""

    def forward(self, pred, target):
        if target.dim() != 3:
            raise ValueError("target must be [b, h, w]")
        p = F.softmax(pred, dim=1)
        y = F.one_hot(target, 2).movedim(-1, 1).to(p)
        return 1 - (2 * (p * y)[:, 1:].sum() + 1e-5) / ((p + y)[:, 1:].sum() + 1e-5)


class SimplexBoundary:
    """No module; `idc` is required; on probabilities of all classes, one-hot masks, both of which it asserts."""

    def __init__(self, **kwargs):
        self.idc = kwargs["idc"]

    def __call__(self, probs, target):
        assert torch.allclose(probs.sum(1), torch.ones_like(probs[:, 0]))
        assert set(target.unique().tolist()) <= {0, 1}
        assert torch.allclose(target.sum(1).float(), torch.ones_like(probs[:, 0]))
        p, y = probs[:, self.idc], target[:, self.idc].float()
        return -(y * (p + 1e-10).log()).sum() / (y.sum() + 1e-10) + p.mul(1 - y).mean()


class ClassesDice(nn.Module):
    """On probabilities of `n_classes`, indices [b, h, w]; with one class it would compare with the background."""

    def __init__(self, n_classes):
        super().__init__()
        self.n_classes = n_classes

    def forward(self, inputs, target, weight=None, softmax=False):
        if softmax:
            inputs = torch.softmax(inputs, dim=1)
        y = torch.stack([target == index for index in range(self.n_classes)], dim=1).float()
        assert inputs.size() == y.size()
        loss = 0.0
        for index in range(self.n_classes):
            p, t = inputs[:, index], y[:, index]
            loss += 1 - (2 * (p * t).sum() + 1e-5) / ((p * p).sum() + (t * t).sum() + 1e-5)
        return loss / self.n_classes


def flat_dice(input, target, multiclass=False):
    """On probabilities [b, h, w], which it asserts; the whole batch."""
    assert input.dim() == 3
    overlap = (input * target).sum()
    return 1 - (2 * overlap + 1e-6) / (input.sum() + target.sum() + 1e-6)


def true_first_tversky(y_true, y_pred, alpha=0.3, beta=0.7, smooth=1.0):
    """The mask first; false positives and false negatives weigh differently, which no value shows."""
    overlap = (y_true * y_pred).sum()
    missed, added = (y_true * (1 - y_pred)).sum(), ((1 - y_true) * y_pred).sum()
    return 1 - (overlap + smooth) / (overlap + alpha * added + beta * missed + smooth)


def focal_map(inputs, targets, alpha=0.25, gamma=2.0, reduction="none"):
    """On logits; a map by default."""
    p = torch.sigmoid(inputs)
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    wrong = 1 - (p * targets + (1 - p) * (1 - targets))
    loss = (alpha * targets + (1 - alpha) * (1 - targets)) * wrong**gamma * ce
    return loss.mean() if reduction == "mean" else loss


def sample_dice(pred, target):
    """On logits; a value for each sample."""
    p = torch.sigmoid(pred)
    return 1 - (2 * (p * target).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)


def double_dice(input, target):
    """On probabilities, in float64."""
    p, y = input.double().flatten(), target.double().flatten()
    return 1 - (2 * (p * y).sum() + 1e-15) / (p.sum() + y.sum() + 1e-15) + F.binary_cross_entropy(p, y)


def hinge(logits, labels, per_image=True):
    """On logits with a mask [b, h, w] of indices, per image."""
    losses = []
    for z, y in zip(logits, labels, strict=True):
        if y.shape != logits.shape[-2:]:
            raise ValueError("labels must be [b, h, w]")
        losses.append(F.relu(1 - z.flatten() * (2 * y.flatten().float() - 1)).mean())
    return torch.stack(losses).mean()


def by_name(name="dice", **settings):
    """A factory."""
    return {"dice": ReferenceDice, "bce_dice": BCEDice}[name](**settings)


class Gathering(nn.Module):
    """Negative Dice of the batch over all ranks, which it gathers itself."""

    def __init__(self, ddp=True):
        super().__init__()
        self.ddp = ddp

    def forward(self, net_output, target):
        p = torch.sigmoid(net_output)
        sums = torch.stack([(p * target).sum(), p.sum() + target.sum()])
        if self.ddp:
            parts = [torch.zeros_like(sums) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(parts, sums.detach())
            sums = torch.stack(parts).sum(0) + sums - sums.detach()
        return -(2 * sums[0] + 1e-5) / (sums[1] + 1e-5)


class HardestOfTheBatch(nn.Module):
    """Cross-entropy of the voxels of the batch that have the most of it: no sum over samples."""

    def __init__(self, share=0.05):
        super().__init__()
        self.share = share

    def forward(self, input, target):
        values = F.binary_cross_entropy_with_logits(input, target, reduction="none").flatten()
        return values.topk(max(1, int(self.share * values.numel()))).values.mean()


ready_made = BCEDice()
