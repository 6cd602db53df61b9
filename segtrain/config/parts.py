"""Tables of the built-in parts: losses, optimisers, schedules, augmentations, engines; `networks.py` has the networks.

A row names the part's function, the keys that it reads, its line in the docs and its source. The config's validation,
`--help`, the tables in docs/ and the tests read these tables, so a new part is a function and a row. Imports no torch:
functions are given as import paths and imported when the part is made.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from segtrain.config.importing import load
from segtrain.config.reference import Reference


@dataclass(frozen=True)
class Part:
    """A row. `keys`: those keys of its section of the config that it reads and not every part of its kind does."""

    function: str  # module:name, or FILE.py:NAME for a part of the user's own
    doc: str
    source: str = ""
    keys: tuple[str, ...] = ()

    @property
    def reference(self) -> Reference:
        """Where its function or class is."""
        return Reference.of(self.function)

    def load(self, **options: Any) -> Any:
        """The function or class, given `options`; importing its module imports torch, or runs the user's code."""
        function = load(self.reference)
        return partial(function, **options) if options else function


@dataclass(frozen=True)
class LossPart(Part):
    """A row of LOSSES. `over`: what its function is given.

    batch: sums over all voxels of the global batch, for `classes` classes (see `losses.region`); sample: logits and
    masks, of which it returns a value for each sample (`losses.per_sample`); both: nothing, it combines other losses.
    """

    over: Literal["batch", "sample", "both"] = "batch"
    classes: int = 1


LOSSES: dict[str, LossPart] = {
    "dice": LossPart(
        "segtrain.losses.region:dice",
        "1 - (2 TP + smooth) / (sum p + sum y + smooth)",
        "the LGG reference; Milletari et al., 3DV 2016",
        over="batch",
    ),
    "bce": LossPart("segtrain.losses.per_sample:bce", "cross-entropy", over="sample"),
    "dice_bce": LossPart("segtrain.losses.loss:dice_bce", "dice + bce", over="both"),
    "focal": LossPart(
        "segtrain.losses.per_sample:focal",
        "(1 - p of the truth)^gamma times cross-entropy; alpha weighs the lesion",
        "Lin et al., ICCV 2017",
        over="sample",
    ),
    "dice_focal": LossPart("segtrain.losses.loss:dice_focal", "dice + focal", over="both"),
    "tversky": LossPart(
        "segtrain.losses.region:tversky",
        "1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth)",
        "Salehi et al., MLMI 2017",
        over="batch",
    ),
    "focal_tversky": LossPart(
        "segtrain.losses.region:focal_tversky", "tversky^gamma", "Abraham, Khan, ISBI 2019", over="batch"
    ),
    "jaccard": LossPart(
        "segtrain.losses.region:jaccard",
        "1 - (TP + smooth) / (TP + FP + FN + smooth)",
        "Rahman, Wang, ISVC 2016",
        over="batch",
    ),
    "lovasz": LossPart(
        "segtrain.losses.per_sample:lovasz_hinge",
        "Lovász hinge, per image",
        "Berman et al., CVPR 2018",
        over="sample",
    ),
    "generalized_dice": LossPart(
        "segtrain.losses.region:generalized_dice",
        "Dice of lesion and background, weighted by 1 / size^power (at least one voxel)",
        "Sudre et al., DLMIA 2017",
        over="batch",
        classes=2,
    ),
    "log_cosh_dice": LossPart(
        "segtrain.losses.region:log_cosh_dice", "log cosh dice", "Jadon, CIBCB 2020", over="batch"
    ),
    "unified_focal": LossPart(
        "segtrain.losses.loss:unified_focal",
        "asymmetric focal times balance + focal Tversky times (1 - balance)",
        "Yeung et al., CMIG 2022",
        over="both",
    ),
    "boundary": LossPart(
        "segtrain.losses.per_sample:boundary",
        "p times signed distance from the edge, in pixels",
        "Kervadec et al., MIDL 2019",
        over="sample",
    ),
    "dice_topk": LossPart(
        "segtrain.losses.loss:dice_topk",
        "dice + cross-entropy over the worst share of each sample's voxels",
        "Wu et al., 2016; nnU-Net",
        over="both",
    ),
}

# Functions of groups of parameters and OptimConfig.
OPTIMIZERS: dict[str, Part] = {
    "adam": Part("segtrain.engines.optim:adam", "Adam", "Kingma, Ba, ICLR 2015"),
    "adamw": Part("segtrain.engines.optim:adamw", "Adam with decoupled weight decay", "Loshchilov, Hutter, ICLR 2019"),
    "sgd": Part(
        "segtrain.engines.optim:sgd",
        "stochastic gradient descent with Nesterov momentum",
        "Sutskever et al., ICML 2013",
        keys=("momentum",),
    ),
    "schedulefree": Part(
        "segtrain.engines.optim:schedulefree", "AdamW without a schedule", "Defazio et al., NeurIPS 2024"
    ),
}

# Functions of a moment after the warm-up and OptimConfig.
SCHEDULES: dict[str, Part] = {
    "constant": Part("segtrain.engines.schedules:constant", "the same rate after the warm-up"),
    "warmup_cosine": Part(
        "segtrain.engines.schedules:cosine",
        "half a cosine from lr to final_lr_ratio of it",
        "Loshchilov, Hutter, ICLR 2017",
        keys=("final_lr_ratio",),
    ),
    "polynomial": Part(
        "segtrain.engines.schedules:polynomial",
        "(1 - progress)^power from lr to final_lr_ratio of it",
        "Isensee et al., Nature Methods 2021",
        keys=("final_lr_ratio", "power"),
    ),
    "step": Part("segtrain.engines.schedules:step", "lr times gamma after every step_size epochs, or steps"),
    "one_cycle": Part(
        "segtrain.engines.schedules:one_cycle",
        "up to lr and down to nearly 0, by cosines",
        "Smith, Topin, SPIE 2019",
    ),
}

# Functions of the seed and the samples' positions, which return what is drawn, or None.
AUGMENTATIONS: dict[str, Part] = {
    "none": Part("segtrain.data.augment.batch:no_draws", "samples as they are in the store"),
    "reference": Part(
        "segtrain.data.augment.geometry:reference_draws",
        "scale by up to 5%, rotation by up to 15 degrees, left-right flip, of every sample",
        "the LGG reference",
    ),
    "strong": Part(
        "segtrain.data.augment.strong:strong_draws",
        "effects of nnU-Net's trainer, each with its own chance",
        "Isensee et al., Nature Methods 2021",
    ),
}

# Classes around a network, its loss and the ranks.
ENGINES: dict[str, Part] = {
    "ddp": Part("segtrain.engines.ddp:DdpEngine", "the whole network on every rank"),
    "deepspeed": Part(
        "segtrain.engines.deepspeed:DeepSpeedEngine",
        "moments, gradients and weights divided among the ranks",
        "Rajbhandari et al., ZeRO, SC 2020",
    ),
}
