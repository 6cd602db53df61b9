"""A trained network as an ONNX file, which is there only if it gives what torch gives, on real slices.

Legend: b batch, c channel, r region, h height, w width.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segtrain.data.neighbours import Neighbours, with_neighbours
from segtrain.data.store import Store
from segtrain.errors import ConfigError, RunError
from segtrain.evaluation.ensemble import TrainedCheckpoint, network_of
from segtrain.evaluation.onnx_metadata import INPUT, OUTPUT, metadata_of
from segtrain.runtime import files
from segtrain.runtime.optional_package import package

log = logging.getLogger(__name__)

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a probability
PATIENTS = 2  # validation patients whose slices are compared
TRACED = 2  # slices of the trace: of one, the tracer would take the batch for a constant
ANY, ONE = "any", "1"


@dataclass(frozen=True)
class Check:
    """The file against torch. other_side: voxels that a threshold parts.

    largest_difference: of a probability; NaN where either gives NaN.
    """

    slices: int
    batches: tuple[int, ...]
    largest_difference: float
    other_side: int
    tolerance: float
    torch: str
    onnxruntime: str


class _Probability(nn.Module):
    """Probabilities [b, r, h, w] of an image [b, c, h, w]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.network(image))


def require_packages() -> None:
    """Raises ConfigError: one that --onnx needs is not installed."""
    for name in PACKAGES:
        package(name, "--onnx")


def write_onnx(one: TrainedCheckpoint, store: Store, out: Path) -> Check:
    """Write the file, whole and checked, or none.

    Raises RunError: `out` is there, or the file does not give what torch gives; ConfigError: the network cannot be
    exported, or a package is missing; DataError: the store; OSError.
    """
    require_packages()
    if out.exists():
        raise RunError(f"{out}: is there already; name another file with --out, or move it")
    if part := one.own_network:
        log.info("%s: runs %s, the run's copy of its own network", one.run.root, part)
    network = _Probability(network_of(one, torch.device("cpu"))).eval()
    slices_bchw = _real_slices(one, store)
    files.make_folder(out.parent)
    reasons = []
    for batch in (ANY, ONE):
        with files.aside(out) as temporary:
            try:
                _export(network, slices_bchw, temporary, batch)
                check = _compare(one, network, slices_bchw, temporary, batch)
            except _NotExported as error:
                reasons.append(str(error))
                temporary.unlink(missing_ok=True)
                continue
            if not check.largest_difference <= TOLERANCE:
                raise RunError(
                    f"{one.run.root}: its ONNX file differs from torch by {check.largest_difference:.2g} of a "
                    f"probability, more than {TOLERANCE:g}; it is not kept, so predict with the zip (without --onnx)"
                )
            _describe(temporary, metadata_of(one, batch, asdict(check)))
            if batch == ONE:
                log.warning("%s: takes one slice at a time, since its network has another form in a batch", out)
            return check
    raise ConfigError(
        f"{one.run.root}: its network cannot be exported ({reasons[0]}); predict with the zip (without --onnx)"
    )


class _NotExported(Exception):
    """The exporter, or the runtime, does not take the network so."""


def _real_slices(one: TrainedCheckpoint, store: Store) -> NDArray[np.float32]:
    """Slices of validation patients as the network sees them [b, c, h, w], those with a lesion among them."""
    patients = sorted(one.validation)[:PATIENTS]
    store.require(patients)
    volumes = []
    for patient in patients:
        stored, (image_shwc, _) = store.patients[patient], store.volume(patient)
        offsets = Neighbours.of(one.cfg.data).offsets(stored.spacing_mm, f"patient {patient}")
        volumes.append(with_neighbours(image_shwc, offsets))
    return np.ascontiguousarray(np.concatenate(volumes).transpose(0, 3, 1, 2).astype(np.float32))


def _export(network: nn.Module, slices_bchw: NDArray[np.float32], file: Path, batch: str) -> None:
    """Trace the network for batches of any size, or of one slice. Raises _NotExported."""
    example = torch.from_numpy(slices_bchw[: TRACED if batch == ANY else 1])
    shapes = ({0: torch.export.Dim("batch", min=1)},) if batch == ANY else None
    try:
        with _quietly():
            torch.onnx.export(
                network,
                (example,),
                str(file),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has no errors of its own: a network's code may raise anything in it
        raise _NotExported(_first_line(error)) from error


def _compare(
    one: TrainedCheckpoint, network: nn.Module, slices_bchw: NDArray[np.float32], file: Path, batch: str
) -> Check:
    """The file's probabilities of the slices against torch's, in batches of several sizes. Raises _NotExported."""
    import onnxruntime

    thresholds = [one.cfg.evaluate.of(region).threshold for region in one.cfg.data.layout.regions]
    largest, other_side, sizes = 0.0, 0, []
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for part_bchw in _batches(slices_bchw, batch, one.cfg.evaluate.batch):
            with torch.inference_mode():
                expected = network(torch.from_numpy(part_bchw)).numpy()
            (output,) = session.run([OUTPUT], {INPUT: part_bchw})
            if output.shape != expected.shape:
                raise _NotExported(f"it gives {output.shape} in place of {expected.shape}")
            largest = float(np.maximum(largest, np.abs(output - expected).max()))  # NaN of one slice stays
            for region, threshold in enumerate(thresholds):
                sides = [array[:, region] > np.float32(threshold) for array in (output, expected)]
                other_side += int((sides[0] != sides[1]).sum())
            sizes.append(len(part_bchw))
    except _NotExported:
        raise
    except Exception as error:  # onnxruntime's are of no common kind
        raise _NotExported(_first_line(error)) from error
    return Check(
        slices=sum(sizes),
        batches=tuple(sorted(set(sizes))),
        largest_difference=largest,
        other_side=other_side,
        tolerance=TOLERANCE,
        torch=str(torch.__version__),
        onnxruntime=str(onnxruntime.__version__),
    )


def _batches(slices_bchw: NDArray[np.float32], batch: str, largest: int) -> Iterator[NDArray[np.float32]]:
    """All slices: one, three, and then as many as fit; or one by one."""
    sizes = iter((1, 3) if batch == ANY else ())
    start = 0
    while start < len(slices_bchw):
        size = next(sizes, largest if batch == ANY else 1)
        yield slices_bchw[start : start + size]
        start += size


def _describe(file: Path, metadata: dict[str, str]) -> None:
    onnx: Any = package("onnx", "--onnx")
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, metadata)
    model.producer_name = "segtrain"
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter prints and warns of."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    """The root cause's first line: the exporter wraps it in pages."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__
