"""Effects on intensities. Images are z-scored per patient and contrast, so air is below 0.

Each function takes images of one contrast, x [k, s, h, w], and their parameters [k, ...], and returns them changed. The
s neighbouring slices (one without `data.neighbours`) share parameters and statistics.

Legend: k contrasts of samples, s neighbouring slices, h height, w width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrain.data.augment.noise import KEY_BITS, standard_normal

SMALLEST = 1e-6
REACH_PX = 4  # of a blur's kernel: four standard deviations of the widest
SHARP_PX = 0.01  # a standard deviation that leaves images as they are: of 0 the kernel would be 0 / 0
ORDERS = 4  # of the bias field's polynomials along an axis: 0 to 3
VOXELS = (1, 2, 3)


def _each(values_k: Tensor) -> Tensor:
    return values_k[:, None, None, None]


def _range_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest value, which is air, and the largest."""
    return x.amin(VOXELS, keepdim=True), x.amax(VOXELS, keepdim=True)


def blur(x: Tensor, values: Tensor) -> Tensor:
    """Gaussian of standard deviation values[:, 0] px; the border is repeated.

    As sums of shifted images: a convolution's last bits depend on the number of images, which L4 forbids.
    """
    taps = torch.arange(REACH_PX + 1, device=x.device)
    weights = torch.exp(-(taps**2) / (2 * values.clamp(min=SHARP_PX) ** 2))
    weights = weights / (2 * weights.sum(1, keepdim=True) - 1)
    for axis, border in ((3, (REACH_PX, REACH_PX, 0, 0)), (2, (0, 0, REACH_PX, REACH_PX))):
        padded, size = F.pad(x, border, mode="replicate"), x.shape[axis]
        x = x * _each(weights[:, 0])
        for tap in range(1, REACH_PX + 1):
            two = padded.narrow(axis, REACH_PX - tap, size) + padded.narrow(axis, REACH_PX + tap, size)
            x.addcmul_(two, _each(weights[:, tap]))
    return x


def low_resolution(x: Tensor, values: Tensor) -> Tensor:
    """Voxels larger by the factor values[:, 0]: reduced by nearest, enlarged by cubic interpolation."""
    # The small image is in a corner of one of full size, since the factor differs between samples.
    small = F.grid_sample(x, _zoom(values[:, 0], x), "nearest", "border", align_corners=False)
    return F.grid_sample(small, _zoom(1 / values[:, 0], x), "bicubic", "border", align_corners=False)


def _zoom(factor: Tensor, like: Tensor) -> Tensor:
    """The grid by which the output at p, from the corner, is the input at factor * p; h = w."""
    size = like.shape[-1]
    place = (torch.arange(size, device=like.device) * 2 + 1) / size
    line = factor[:, None] * place - 1
    return torch.stack((line[:, None, :].expand(-1, size, -1), line[:, :, None].expand(-1, -1, size)), dim=3)


def legendre(size: int, device: torch.device) -> Tensor:
    """[4, size]: Legendre polynomials of order 0 to 3 over -1..1."""
    t = torch.linspace(-1, 1, size, device=device)
    return torch.stack((torch.ones_like(t), t, (3 * t**2 - 1) / 2, (5 * t**3 - 3 * t) / 2))


def bias_field(x: Tensor, values: Tensor) -> Tensor:
    """The part above air, times exp of a polynomial with coefficients values [k, 4, 4] (order in y, order in x)."""
    field = (legendre(x.shape[2], x.device).T @ values @ legendre(x.shape[3], x.device)).exp_()[:, None]
    air = x.amin(VOXELS, keepdim=True)
    return (x - air).mul_(field).add_(air)


def brightness(x: Tensor, values: Tensor) -> Tensor:
    """The part above air, times values[:, 0]. Multiplied z-scores, as in nnU-Net, would be another contrast effect."""
    air = x.amin(VOXELS, keepdim=True)
    return (x - air).mul_(_each(values[:, 0])).add_(air)


def contrast(x: Tensor, values: Tensor) -> Tensor:
    """The distance from the mean, times values[:, 0], clipped to the former range."""
    mean, (low, high) = x.mean(VOXELS, keepdim=True), _range_of(x)
    return (x - mean).mul_(_each(values[:, 0])).add_(mean).clamp_(low, high)


def gamma(x: Tensor, values: Tensor) -> Tensor:
    """Scaled to 0..1, raised to the power values[:, 0], scaled back to the former mean and standard deviation.

    Where values[:, 1] is 1, with 1 - x in place of x.
    """
    (low, high), inverted = _range_of(x), _each(values[:, 1]) > 0
    spread = (high - low).clamp_min(SMALLEST)
    slope = torch.where(inverted, -1 / spread, 1 / spread)
    unit = (x - torch.where(inverted, high, low)).mul_(slope)
    curved = unit.log_().mul_(_each(values[:, 0])).exp_()  # four times faster than pow; 0 stays 0
    (mean, deviation), (curved_mean, curved_deviation) = _statistics(x), _statistics(curved)
    ratio = slope.sign() * deviation / curved_deviation.clamp_min(SMALLEST)
    return curved.mul_(ratio).add_(mean - curved_mean * ratio)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, twenty times as fast as torch.std_mean; accurate enough for z-scores."""
    mean = x.mean(VOXELS, keepdim=True)
    square = torch.linalg.vector_norm(x, dim=VOXELS, keepdim=True) ** 2 / x[0].numel()
    return mean, (square - mean**2).clamp_min(0).sqrt()


def noise(x: Tensor, values: Tensor) -> Tensor:
    """Independent Gaussian noise of standard deviation values[:, 0] in each voxel; the other values are the key."""
    high, low = values[:, 1:].long().unbind(1)
    normal = standard_normal(high << KEY_BITS | low, x[0].numel())
    return normal.view_as(x).mul_(_each(values[:, 0])).add_(x)
