"""A small nested U-Net: classes first, four outputs, the best last, in evaluation too; takes any keyword."""

import torch
from torch import nn


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class NestedUNet(nn.Module):
    def __init__(self, num_classes, input_channels=3, deep_supervision=False, **kwargs):
        super().__init__()
        self.deep_supervision = deep_supervision
        self.pool, self.up = nn.MaxPool2d(2, 2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv0_0, self.conv1_0, self.conv2_0 = block(input_channels, 4), block(4, 8), block(8, 16)
        self.conv0_1, self.conv1_1 = block(4 + 8, 4), block(8 + 16, 8)
        self.conv0_2 = block(4 * 2 + 8, 4)
        if self.deep_supervision:
            self.final1, self.final2 = nn.Conv2d(4, num_classes, 1), nn.Conv2d(4, num_classes, 1)
        else:
            self.final = nn.Conv2d(4, num_classes, 1)

    def forward(self, input):
        x0_0 = self.conv0_0(input)
        x1_0 = self.conv1_0(self.pool(x0_0))
        x0_1 = self.conv0_1(torch.cat([x0_0, self.up(x1_0)], 1))
        x2_0 = self.conv2_0(self.pool(x1_0))
        x1_1 = self.conv1_1(torch.cat([x1_0, self.up(x2_0)], 1))
        x0_2 = self.conv0_2(torch.cat([x0_0, x0_1, self.up(x1_1)], 1))
        if self.deep_supervision:
            return [self.final1(x0_1), self.final2(x0_2)]
        return self.final(x0_2)
