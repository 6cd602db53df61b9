"""Small networks that return the same logits in the ways that public ones do."""

from collections import OrderedDict
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


class Body(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, out_channels, 1)
        self.aux = nn.Conv2d(4, out_channels, 1)

    def both(self, x):
        x = F.relu(self.conv1(x))
        coarse = self.aux(F.max_pool2d(F.relu(self.conv2(x)), 2))
        fine = self.head(F.relu(self.conv3(F.relu(self.conv2(x)))))
        return fine, coarse

    def forward(self, x):
        return self.both(x)[0]


class BestFirst(Body):
    def forward(self, x):
        return list(self.both(x))


class BestLast(Body):
    def forward(self, x):
        return list(reversed(self.both(x)))


class Nested(Body):
    def forward(self, x):
        fine, coarse = self.both(x)
        return (torch.sigmoid(coarse),), torch.sigmoid(fine)


class Dictionary(Body):
    def forward(self, x):
        fine, coarse = self.both(x)
        return OrderedDict(out=fine, aux=F.interpolate(coarse, size=x.shape[-2:]))


class Output(Body):
    def forward(self, x):
        fine, coarse = self.both(x)
        return SimpleNamespace(loss=None, logits=fine, hidden_states=(coarse,))


class WithLabel(Body):
    def forward(self, x):
        fine = self.both(x)[0]
        return fine, fine.mean((2, 3))


class Stacked(Body):
    """While it trains, all outputs in one tensor [b, n, 1, h, w]."""

    def forward(self, x):
        fine, coarse = self.both(x)
        return torch.stack([fine, F.interpolate(coarse, size=x.shape[-2:])], dim=1) if self.training else fine


class Squeezed(Body):
    def forward(self, x):
        return self.both(x)[0].squeeze(1)


class TwoChannels(Body):
    """z as [-z/2, z/2]: the same difference."""

    def forward(self, x):
        fine = self.both(x)[0]
        return torch.cat([-fine / 2, fine / 2], dim=1)


class TwoProbabilities(TwoChannels):
    def forward(self, x):
        return F.softmax(super().forward(x), dim=1)


class TwoLogProbabilities(TwoChannels):
    def forward(self, x):
        return F.log_softmax(super().forward(x), dim=1)


class Sigmoid(Body):
    def forward(self, x):
        return torch.sigmoid(self.both(x)[0])


class SigmoidLayer(Body):
    """One layer for a gate and for the output."""

    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        self.act = nn.Sigmoid()

    def forward(self, x):
        self.act(x)
        return self.act(self.both(x)[0])


class SigmoidInEvaluation(Body):
    def forward(self, x):
        fine = self.both(x)[0]
        return fine if self.training else torch.sigmoid(fine)


class Hyperbolic(Body):
    """Probabilities without a sigmoid: no walk through the graph can tell."""

    def forward(self, x):
        return (torch.tanh(self.both(x)[0] / 2) + 1) / 2


class Quarter(Body):
    def forward(self, x):
        return F.avg_pool2d(self.both(x)[0], 4)


class Dropout(Body):
    def __init__(self, in_channels=3, out_channels=1, dropout=0.3):
        super().__init__(in_channels, out_channels)
        self.drop = nn.Dropout2d(dropout)

    def forward(self, x):
        return self.head(self.drop(F.relu(self.conv3(F.relu(self.conv1(x))))))


class StochasticDepth(Body):
    """Each sample's branch is kept by a mask, as timm's DropPath does."""

    def forward(self, x):
        x = F.relu(self.conv1(x))
        branch = F.relu(self.conv2(x))
        if self.training:
            branch = branch * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.7) / 0.7
        return self.head(x + branch)


class WritesItsInput(Body):
    def forward(self, x):
        x -= x.mean((1, 2, 3), keepdim=True)
        return self.both(x)[0]


class Table(Body):
    """A table that is no part of the state dict, and holds infinities."""

    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        self.register_buffer("table", torch.tensor([0.5, -torch.inf]), persistent=False)

    def forward(self, x):
        return self.both(x)[0] * self.table[0]


class Twice(Body):
    """One layer under two names."""

    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels)
        self.layers = nn.ModuleList([self.conv1, self.conv2, self.conv3])
