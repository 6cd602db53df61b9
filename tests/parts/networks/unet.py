"""A U-Net that ends in a sigmoid: arguments, names and order as in the public reference program."""

import torch
from torch import nn


class UNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, init_features=32):
        super().__init__()
        widths = [init_features * 2**level for level in range(5)]
        for level in range(1, 5):
            inputs = in_channels if level == 1 else widths[level - 2]
            setattr(self, f"encoder{level}", self.block(inputs, widths[level - 1], f"enc{level}"))
            setattr(self, f"pool{level}", nn.MaxPool2d(kernel_size=2, stride=2))
        self.bottleneck = self.block(widths[3], widths[4], "bottleneck")
        for level in range(4, 0, -1):
            width = widths[level - 1]
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2))
            setattr(self, f"decoder{level}", self.block(2 * width, width, f"dec{level}"))
        self.conv = nn.Conv2d(in_channels=init_features, out_channels=out_channels, kernel_size=1)

    def forward(self, x):
        enc1 = self.encoder1(x)
        enc2 = self.encoder2(self.pool1(enc1))
        enc3 = self.encoder3(self.pool2(enc2))
        enc4 = self.encoder4(self.pool3(enc3))
        x = self.bottleneck(self.pool4(enc4))
        x = self.decoder4(torch.cat((self.upconv4(x), enc4), dim=1))
        x = self.decoder3(torch.cat((self.upconv3(x), enc3), dim=1))
        x = self.decoder2(torch.cat((self.upconv2(x), enc2), dim=1))
        x = self.decoder1(torch.cat((self.upconv1(x), enc1), dim=1))
        return torch.sigmoid(self.conv(x))

    @staticmethod
    def block(inputs, outputs, name):
        block = nn.Sequential()
        for number, width in ((1, inputs), (2, outputs)):
            block.add_module(f"{name}conv{number}", nn.Conv2d(width, outputs, kernel_size=3, padding=1, bias=False))
            block.add_module(f"{name}norm{number}", nn.BatchNorm2d(outputs))
            block.add_module(f"{name}relu{number}", nn.ReLU(inplace=True))
        return block


class Rounded(UNet):
    """Its sigmoid is followed by a crop of nothing: the probabilities are another tensor than the sigmoid's."""

    def forward(self, x):
        return super().forward(x)[:, :, :, :]
