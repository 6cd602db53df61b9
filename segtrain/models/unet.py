"""The public reference U-Net: same modules, same names, same state dict; it returns logits instead of probabilities.

After O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
2015, as changed by M. Buda et al. (2019): batch norm after every convolution, 32 first features.

Legend: b batch, c channel, h height, w width.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from segtrain.config import ModelConfig, NormName

GROUPS = 4  # of norm=group; divides every width of the network


class UNet(nn.Module):
    """Four levels down and up. Input [b, 3, h, w] with h and w multiples of 16; output logits [b, 1, h, w]."""

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, features: int = 32, norm: NormName = "batch"
    ) -> None:
        super().__init__()
        f = features
        self.encoder1 = _block(in_channels, f, "enc1", norm)
        self.pool1 = nn.MaxPool2d(2)
        self.encoder2 = _block(f, 2 * f, "enc2", norm)
        self.pool2 = nn.MaxPool2d(2)
        self.encoder3 = _block(2 * f, 4 * f, "enc3", norm)
        self.pool3 = nn.MaxPool2d(2)
        self.encoder4 = _block(4 * f, 8 * f, "enc4", norm)
        self.pool4 = nn.MaxPool2d(2)
        self.bottleneck = _block(8 * f, 16 * f, "bottleneck", norm)
        self.upconv4 = nn.ConvTranspose2d(16 * f, 8 * f, kernel_size=2, stride=2)
        self.decoder4 = _block(16 * f, 8 * f, "dec4", norm)
        self.upconv3 = nn.ConvTranspose2d(8 * f, 4 * f, kernel_size=2, stride=2)
        self.decoder3 = _block(8 * f, 4 * f, "dec3", norm)
        self.upconv2 = nn.ConvTranspose2d(4 * f, 2 * f, kernel_size=2, stride=2)
        self.decoder2 = _block(4 * f, 2 * f, "dec2", norm)
        self.upconv1 = nn.ConvTranspose2d(2 * f, f, kernel_size=2, stride=2)
        self.decoder1 = _block(2 * f, f, "dec1", norm)
        self.conv = nn.Conv2d(f, out_channels, kernel_size=1)

    def forward(self, image_bchw: Tensor) -> Tensor:
        enc1 = self.encoder1(image_bchw)
        enc2 = self.encoder2(self.pool1(enc1))
        enc3 = self.encoder3(self.pool2(enc2))
        enc4 = self.encoder4(self.pool3(enc3))
        dec = self.bottleneck(self.pool4(enc4))
        dec = self.decoder4(torch.cat((self.upconv4(dec), enc4), dim=1))
        dec = self.decoder3(torch.cat((self.upconv3(dec), enc3), dim=1))
        dec = self.decoder2(torch.cat((self.upconv2(dec), enc2), dim=1))
        dec = self.decoder1(torch.cat((self.upconv1(dec), enc1), dim=1))
        logits: Tensor = self.conv(dec)
        return logits


def unet(cfg: ModelConfig) -> nn.Module:
    """The reference U-Net with `model.features` first features and `model.norm`."""
    return UNet(features=cfg.features, norm=cfg.norm or "batch")


def _block(inputs: int, outputs: int, name: str, norm: NormName) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in ((1, inputs), (2, outputs)):
        layers[f"{name}conv{number}"] = nn.Conv2d(width, outputs, kernel_size=3, padding=1, bias=False)
        layers[f"{name}norm{number}"] = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(GROUPS, outputs)
        layers[f"{name}relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)
