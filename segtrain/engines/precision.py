"""The number types of products and the memory layout, as `precision` and `model.channels_last` ask for them."""

import torch

from segtrain.config import Config, Precision
from segtrain.runtime.gpu import is_ampere_or_newer

AUTOCAST: dict[Precision, torch.dtype | None] = {
    "fp32": None,
    "ieee": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
WIDTH = 16  # float32 numbers in an AVX-512 register: networks with fewer first features are no faster in channels_last
ON_CUDA: dict[Precision, str] = {
    "fp32": "convolutions in TF32 (10 bits of mantissa), all else in float32, as torch does by default; precision=ieee "
    "convolves in float32 too",
    "ieee": "convolutions and all else in float32, without TF32",
    "tf32": "convolutions and matrix products in TF32 (10 bits of mantissa)",
    "bf16": "convolutions and matrix products in bfloat16, weights in float32",
    "fp16": "convolutions and matrix products in float16, weights in float32, with a loss scale",
}
WITHOUT_TF32 = "convolutions and all else in float32: this GPU has no TF32 (compute capability below 8.0)"


def use_tf32(precision: Precision) -> None:
    """Choose the float32 operations that CUDA computes in TF32; `fp32` leaves torch's own defaults.

    By torch's older switches: after its newer ones (`fp32_precision`) the older getters raise, and torch.compile and
    libraries read those.
    """
    torch.backends.cudnn.allow_tf32 = precision != "ieee"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def described_precision(precision: Precision, device: torch.device) -> str | None:
    """A line about what a GPU computes in which type; None on a CPU, where float32 is float32."""
    if device.type != "cuda":
        return None
    lacks_tf32 = precision in ("fp32", "tf32") and not is_ampere_or_newer(device)
    return f"precision={precision}: {WITHOUT_TF32 if lacks_tf32 else ON_CUDA[precision]}"


def prefers_channels_last(cfg: Config, device: torch.device) -> bool:
    """`model.channels_last`, or else where it is faster: on CPUs with AVX-512 (measured), unless the network is narrow.

    On CUDA wherever convolutions run on tensor cores, TF32's too, since cuDNN computes those in this layout (not
    measured here).
    """
    if cfg.model.channels_last is not None:
        return cfg.model.channels_last
    if device.type == "cuda":
        return cfg.precision in ("bf16", "fp16") or (cfg.precision != "ieee" and is_ampere_or_newer(device))
    wide: bool = torch.backends.cpu.get_cpu_capability() == "AVX512" and cfg.model.features >= WIDTH
    return wide
