"""The configuration of a run: frozen dataclasses, whose defaults are the only defaults. `load.py` fills them.

Imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import field
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from segtrain.config.choice import PART, Choice, check_choice, choice_of, name_of
from segtrain.config.loss_terms import LossConfig
from segtrain.config.networks import NETWORKS, NetworkPart, NormName, OutputName, network_part
from segtrain.config.parts import AUGMENTATIONS, ENGINES, OPTIMIZERS, SCHEDULES, Part
from segtrain.config.phantoms import STRICT, Names, PhantomConfig
from segtrain.config.postprocessing import POSTPROCESSING, Postprocessing
from segtrain.config.reference import SMP_PREFIX
from segtrain.config.regions import LESION, LGG_CONTRASTS, MaskLayout
from segtrain.config.tree import nearest

SOURCES = ("auto", "phantom", "lgg", "slices", "nifti", "nnunet")
ProtocolName = Literal["reference", "zscore"]
SplitName = Literal["reference", "kfold", "file"]
SplitVersion = Literal[1, 2]
PublishedName = Literal["all", "present", "redrawn"]
SamplingName = Literal["lesion", "uniform"]
TtaName = Literal["none", "trained", "left_right", "up_down", "flips", "all"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "ieee", "auto"]
DeviceName = Literal["auto", "cpu", "cuda"]
OnOom = Literal["halve", "fail"]
WeightsInput = Literal["mean", "repeat"]
AllocatorName = Literal["keep", "system"]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Volume = Annotated[float, Field(ge=0)]
Label = Annotated[int, Field(ge=1)]  # a value of a mask; 0 is background
Labels = Annotated[tuple[Label, ...], Field(min_length=1)]
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Patterns = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Name = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]  # a number, too


def _check_source(choice: Any) -> Choice:
    if isinstance(choice, Mapping) and choice.get(PART) in SOURCES and len(choice) > 1:
        raise ValueError(f"source {choice[PART]} has no options of its own; set the keys of data")
    return check_choice("source", choice, {name: Part("", "") for name in SOURCES})


def _check_engine(name: Any) -> Any:
    if not isinstance(name, str) or name not in ENGINES:
        near = nearest(name, ENGINES)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ValueError(f"no engine is named {name!r}{hint}; there are {', '.join(ENGINES)}")
    return name


def _check_network(choice: Any) -> Choice:
    name = choice.get(PART) if isinstance(choice, Mapping) else choice
    if re.fullmatch(rf"{SMP_PREFIX}[A-Za-z0-9_.-]+", str(name)):
        return check_choice("network", choice, {str(name): network_part(str(name))})
    return check_choice("network", choice, NETWORKS, more=f", {SMP_PREFIX}<encoder>")


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """The source of patients, their preparation, split, sampling and augmentation."""

    source: Annotated[Choice, BeforeValidator(_check_source)] = "phantom"  # made-up patients; auto: by looking at root
    root: str | None = None  # the folder of the data
    licence: str | None = None  # of the data, told with what is made of them; default: as the data say, or as known
    files: dict[str, str] | None = None  # where files are, source=nifti: {flair: '{patient}/*_FLAIR.nii.gz', truth: ..}
    store: str = "prepared"  # parent folder of prepared stores, shared by runs; $VARIABLES are those of the node
    image_size: int = Field(default=256, ge=16, multiple_of=16)  # side of a prepared slice in pixels, a multiple of 16
    skip_bad: bool = False  # leave broken patients out (and list them) instead of stopping
    contrasts: Names | None = None  # by name, in the order of the network's channels; default: those that all have
    missing: str | None = None  # a contrast that stands in for a missing one, or zeros; default: that is an error
    regions: dict[str, Labels] | None = None  # labels of each region, {lesion: [1, 2]}; default: what the source says
    ignore: tuple[Label, ...] = ()  # labels of voxels that nobody knows: no part of loss, scores and sampling
    remap: dict[Label, Label] | None = None  # labels that are read as others, {4: 3}
    soft_above: float | None = Field(default=None, gt=0, lt=1)  # masks of fractions: lesion above it; default: an error
    rater: Name | None = None  # of several masks of a patient, whose; default: the consensus
    resample: Literal["truth"] | None = None  # truth: contrasts of other grids are brought onto the truth's
    protocol: ProtocolName = "reference"  # of intensities; zscore: each contrast inside the head
    spacing_mm: float | None = Field(default=None, gt=0)  # in plane, resampled to; default: any, resized to image_size
    workers: int | None = Field(default=None, ge=1)  # processes that prepare; default: the usable CPUs
    split: SplitName = "reference"  # how patients are divided; reference: as the public program does
    validation_patients: int = Field(default=10, ge=1)  # split=reference
    split_seed: int = Field(default=42, ge=0)  # of the drawing of patients
    folds: int = Field(default=5, ge=2)  # split=kfold
    fold: int = Field(default=0, ge=0)  # the fold that validates, from 0; split=kfold, or a file of folds
    split_version: SplitVersion | None = None  # docs/splits.md; default: that of the runs beside it, else 2
    published: PublishedName = "all"  # of lgg's ten published validation patients: must be there, or see docs/splits.md
    split_file: str | None = None  # split=file: a run's split.json, or nnU-Net's splits_final.json
    groups: str | None = None  # a CSV of patient,person: the scans of one person stay on one side
    sampling: SamplingName = "lesion"  # how slices are drawn; lesion: by the size of the lesion
    lesion_free: float = Field(default=0.1, ge=0)  # sampling=lesion: draws from any slice for one by lesion area
    augment: Annotated[Choice, choice_of("augmentation", AUGMENTATIONS)] = "reference"  # a name of the list below
    augment_workers: int | None = Field(default=None, ge=0)  # processes of an own augmentation; default: spare cores
    resident: bool | None = None  # all training slices on the device; default: on a GPU with enough memory
    copy_paste: float = Field(default=0.0, ge=0, le=1)  # chance that a sample gets the lesion of one of the same lane
    mixup: float = Field(default=0.0, ge=0, le=1)  # chance that a sample is blended with one of the same lane
    neighbours: int = Field(default=0, ge=0, le=4)  # slices above and below as channels (2.5D); edges repeat
    neighbours_mm: float | None = Field(default=None, gt=0)  # from one to the next; default: each slice is the next one
    phantom: PhantomConfig = field(default_factory=PhantomConfig)

    @property
    def contrast_names(self) -> tuple[str, ...]:
        """The contrasts in the order of the network's channels; of a run's data once they are prepared."""
        return self.contrasts or (self.phantom.contrasts if self.source == "phantom" else LGG_CONTRASTS)

    @property
    def channels(self) -> int:
        """Channels of the network's input: the contrasts of the slice and of its neighbours."""
        return len(self.contrast_names) * (2 * self.neighbours + 1)

    @property
    def layout(self) -> MaskLayout:
        """What a mask's bits are; of a run's data once they are prepared."""
        return MaskLayout(tuple(self.regions or (LESION,)), bool(self.ignore))


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The network."""

    name: Annotated[Choice, BeforeValidator(_check_network)] = "unet"  # a name of the list below
    features: int = Field(default=32, ge=1)  # width of the first level; of your own network by an option of it
    depth: int | None = Field(default=None, ge=1, le=7)  # times the image is halved; default: the network's own
    norm: NormName | None = None  # default: the network's own (unet: batch)
    deep_supervision: float | None = Field(default=None, ge=0, le=1)  # weight of each coarser output to the one before
    output: OutputName | None = None  # of a network of your own; default: found by trying it
    weights: str | None = None  # a local file to start from: .safetensors or .pt
    weights_input: WeightsInput | None = None  # its first convolution, of other channels; default: that is an error
    freeze: Patterns = ()  # parts that stay as in weights, by their names, as [encoder*, bottleneck]
    channels_last: bool | None = None  # default: true where that was measured to be faster (docs/performance.md)
    compile: bool | Literal["auto"] = False  # torch.compile; auto: where a trial before the first step says it pays
    checkpoint_activations: bool = False  # keep fewer activations for the backward pass and compute the rest again

    @property
    def part(self) -> NetworkPart:
        """The network's row."""
        return network_part(name_of(self.name))


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """The optimiser, its schedule (a function of the step) and gradient clipping."""

    name: Annotated[Choice, choice_of("optimiser", OPTIMIZERS)] = "adam"  # a name of the list below
    lr: float = Field(default=1e-4, gt=0)  # the learning rate, before the schedule
    lr_ratios: dict[str, Annotated[float, Field(gt=0)]] | None = None  # of lr, by parts' names, as {encoder*: 0.1}
    weight_decay: float = Field(default=0.0, ge=0)  # of weights, not of norms and biases
    decay_all: bool = False  # decay norms and biases too
    momentum: float = Field(default=0.9, ge=0, lt=1)  # sgd
    schedule: Annotated[Choice, choice_of("schedule", SCHEDULES)] = "constant"  # a name of the list below
    warmup_steps: int = Field(default=0, ge=0)  # steps in which the rate rises
    final_lr_ratio: float = Field(default=0.0, ge=0, le=1)  # of lr, at the end of warmup_cosine
    power: float = Field(default=0.9, gt=0)  # polynomial: (1 - progress)^power
    clip_norm: float | None = Field(default=None, gt=0)  # the largest norm of the gradient; default: no clipping
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay of the average of weights that is scored and saved


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """The length of training, and the samples of an optimiser step over all ranks (`global_batch`)."""

    epochs: int = Field(default=100, ge=1)  # length of the training
    global_batch: int = Field(default=16, ge=1)  # samples of an optimiser step, over all ranks
    micro_batch: int | None = Field(default=None, ge=1)  # samples per rank in memory at once; default: all
    on_oom: OnOom = "halve"  # out of memory: halve the micro-batch and accumulate, or fail
    cuda_graph: bool = False  # a step as one CUDA graph, on one GPU (docs/gpu.md; not yet run on one)


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """The scoring of validation patients."""

    every_epochs: int = Field(default=1, ge=1)  # epochs between two evaluations
    batch: int = Field(default=16, ge=1)  # slices predicted at once; changes no score
    # The next five may differ by region, as in {whole: 0.5, core: 0.4}.
    threshold: Threshold | dict[str, Threshold] = 0.5  # a voxel of a higher probability is lesion
    largest_component: bool | dict[str, bool] = True  # keep the largest component of the prediction alone
    min_component_voxels: Count | dict[str, Count] = 0  # smaller components of the prediction are dropped
    min_component_ml: Volume | dict[str, Volume] = 0.0  # likewise, where the spacing of voxels is known
    min_component_share: Share | dict[str, Share] = 0.0  # likewise, a share of the largest; largest_component=false
    tta: TtaName = "none"  # views averaged; trained: the flips of data.augment; all: turns and scales too
    pictures: int = Field(default=6, ge=0)  # validation patients drawn in every evaluation's picture

    def of(self, region: str) -> Postprocessing:
        """What makes a region's mask of its probabilities."""
        values = {}
        for key in POSTPROCESSING:
            value, default = getattr(self, key), getattr(type(self), key)
            values[key] = value.get(region, default) if isinstance(value, Mapping) else value
        return Postprocessing(**values)


@dataclass(frozen=True, config=STRICT)
class CheckpointConfig:
    """When to save (besides each epoch's end) and the number of checkpoints to keep (besides the best)."""

    every_min: float = Field(default=10.0, gt=0)  # minutes between two saves
    keep: int = Field(default=2, ge=1)  # number of checkpoints to keep, besides the best


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


@dataclass(frozen=True, config=STRICT)
class StopConfig:
    """When to save and stop: a time (2026-11-22T18:00) or a duration (1h30m)."""

    deadline: Annotated[str | None, BeforeValidator(_as_text)] = None  # default: the end of the SLURM job, if any


@dataclass(frozen=True, config=STRICT)
class WatchConfig:
    """How often each rank records its use of the machine, and when it writes tracebacks for lack of progress."""

    every_s: float = Field(default=10.0, gt=0)  # seconds between two records of resource use
    stall_s: float = Field(default=600.0, gt=0)  # seconds without progress after which tracebacks are written


def _numbers(value: Any) -> Any:
    """Numbers as in JSON, which DeepSpeed's settings are: 5e7 is a number there and a string in YAML 1.1."""
    if isinstance(value, Mapping):
        return {key: _numbers(below) for key, below in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return int(float(value)) if float(value).is_integer() else float(value)
    return [_numbers(below) for below in value] if isinstance(value, list) else value


@dataclass(frozen=True, config=STRICT)
class DeepSpeedConfig:
    """Settings of engine=deepspeed; its own JSON is made from the whole config."""

    zero: Literal[0, 1, 2, 3] = 2  # divided among the ranks: 1: moments, 2: gradients too, 3: weights too
    offload: bool = False  # moments and the update on the CPU (zero 1 to 3)
    extra: Annotated[dict[str, Any], BeforeValidator(_numbers)] = field(default_factory=dict)  # of its JSON, over ours


@dataclass(frozen=True, config=STRICT)
class Config:
    """The whole configuration of a run."""

    name: str = Field(default="phantom", pattern=RUN_NAME, max_length=200)  # of the run, and of its folder
    runs_dir: str = "runs"  # the folder of the runs' folders
    seed: int = Field(default=42, ge=0, lt=2**63)  # of weights, order and augmentation
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = "dice"  # a name, or {name: weight, ...}; a weight may be {start: 0.01, end: 1.0}
    loss_regions: dict[str, Annotated[float, Field(ge=0)]] | None = None  # weights of regions; default: all alike
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    precision: Precision = "fp32"  # of products; on CUDA fp32 convolves in TF32 and ieee does not; auto: by a trial
    engine: Annotated[str, BeforeValidator(_check_engine)] = "ddp"  # a name of the list below
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    device: DeviceName = "auto"  # auto: a GPU where there is one
    threads_per_rank: int | None = Field(default=None, ge=1)  # default: usable CPUs / ranks on the node
    allocator: AllocatorName = "keep"  # keep: glibc keeps freed memory for the next step (faster, by a tenth larger)
    deterministic: bool = False  # the same bits each time on CUDA too, or an error; slower
    log_every_steps: int = Field(default=10, ge=1)  # steps between two lines of the log
    code: dict[str, str] = field(default_factory=dict)  # hashes of the files of parts of the user's own; filled in
