"""Networks of the user's own behind `Network`, as they stand.

The wrapper shares the modules, parameters and buffers of the user's network instead of holding it as a module, so names
in the state dict are the user's: exported weights load in the code that they came from.

Legend: b batch, c channel, h height, w width.
"""

from typing import Self

import torch
from torch import Tensor, nn

from segtrain.config import ModelConfig, Precision
from segtrain.errors import ConfigError
from segtrain.models.base import Network, supervision_ratio
from segtrain.models.blueprint import Shape, blueprint, explained
from segtrain.models.trial import Findings, findings_of

HALVES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A module's own dictionaries, which PyTorch reads and writes in place.
SHARED = (
    "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


class OwnNetwork(Network):
    """The user's network, whose outputs are what a trial found them to be. See `Network` for shapes."""

    inner: nn.Module

    def __init__(self, inner: nn.Module, findings: Findings, supervised: bool, in_channels: int) -> None:
        super().__init__(halvings=0, norm="batch", supervised=supervised)
        self.findings, self.in_channels = findings, in_channels
        self.norm = findings.norms
        self.multiple, self.least = findings.sizes.multiple, findings.least
        self.description = findings.description
        self.warnings = tuple(check.message for check in findings.checks if check.verdict == "warning")
        vars(self)["inner"] = inner  # not by setattr, which would make it a module of this one
        vars(self).update({name: vars(inner)[name] for name in SHARED})
        for name, parameter in inner.named_parameters():
            if name in findings.unused:  # DDP would wait for its gradient
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        self.inner.train(mode)
        self.training = mode
        return self

    def outputs(self, image_bchw: Tensor) -> list[Tensor]:
        form = self.findings.training if self.training else self.findings.evaluation
        return form.logits(self.inner, image_bchw.clone() if self.findings.writes_input else image_bchw)


def own_network(cfg: ModelConfig, seed: int, shape: Shape) -> OwnNetwork:
    """The user's network for such images, with weights from `seed` alone.

    It is tried first, on a copy, once in a process. Raises ConfigError where it cannot be used.
    """
    plan = blueprint(cfg, shape)
    findings = findings_of(plan, cfg, shape)
    return OwnNetwork(plan.build(seed), findings, supervision_ratio(cfg) > 0, shape.in_channels)


def check_precision(network: Network, precision: Precision) -> None:
    """Raise ConfigError where the user's network cannot be run at that precision, or its outputs lose too much."""
    dtype = HALVES.get(precision)
    if dtype is None or not isinstance(network, OwnNetwork):
        return
    findings = network.findings
    if findings.training.needs_fp32 or findings.evaluation.needs_fp32:
        raise ConfigError(
            f"precision={precision}: {findings.name} returns probabilities, and {precision} rounds them to 0 and 1; "
            "use precision=fp32, or let the network return the very tensor of its last sigmoid (or its logits)"
        )
    if findings.device == "cpu":
        image = findings.sizes.image(1, network.in_channels)
        training = network.training
        half = torch.autocast("cpu", dtype=dtype)
        with explained(findings.name, f"cannot be run at precision={precision}"), torch.no_grad(), half:
            network.eval()(image)
        network.train(training)
