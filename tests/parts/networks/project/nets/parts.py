from torch import nn

from ..blocks import double


class Down(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.both = nn.Sequential(nn.MaxPool2d(2), double(inputs, outputs))

    def forward(self, x):
        return self.both(x)
