"""Counter-based Gaussian noise: each voxel's value is a function of a key and the voxel's index.

It is computed on the device. A generator's state would depend on earlier draws, and noise drawn on the CPU would have
to be copied.
"""

import math

import torch
from torch import Tensor

KEY_BITS = 24  # of each half of a key: float32 holds it exactly
_MASK = (1 << KEY_BITS) - 1


def _signed(unsigned: int) -> int:
    """The same 64 bits as a signed integer, which is what torch has."""
    return unsigned - (1 << 64)


# The finaliser and the increment of SplitMix64: G. Steele, D. Lea, C. Flood, OOPSLA 2014.
GOLDEN, FIRST, SECOND = _signed(0x9E3779B97F4A7C15), _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(bits: Tensor, right: int) -> Tensor:
    """A logical shift; torch's is arithmetic and repeats the sign."""
    return (bits >> right).bitwise_and_((1 << (64 - right)) - 1)


def mixed(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection: every bit of the result depends on every bit of `bits`."""
    bits = (bits ^ _shifted(bits, 30)).mul_(FIRST)
    bits = bits.bitwise_xor_(_shifted(bits, 27)).mul_(SECOND)
    return bits.bitwise_xor_(_shifted(bits, 31))


def standard_normal(key: Tensor, count: int) -> Tensor:
    """float32 [k, count], N(0, 1), for int64 keys [k]: two values from each hash (G. Box and M. Muller, 1958)."""
    number = torch.arange(1, (count + 1) // 2 + 1, device=key.device)
    bits = mixed(mixed(key)[:, None] + number * GOLDEN)
    uniform = _shifted(bits, 40).float().add_(0.5).mul_(2.0**-KEY_BITS)  # in (0, 1]
    radius = uniform.log_().mul_(-2).sqrt_()
    angle = (bits >> 16).bitwise_and_(_MASK).float().mul_(2 * math.pi * 2.0**-KEY_BITS)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)[:, :count]
