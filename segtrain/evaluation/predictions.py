"""What `segtrain predict` leaves behind, written patient by patient: on disk, and once more in one zip.

    masks/...                           in the input's own names, format and geometry, one for every slice of it
    overlays/<patient>/<slice>.png      on FLAIR: prediction red, truth green, yellow where they agree
    sheets/<patient>.png                all slices of a patient
    probabilities/<patient>.tif         when asked for: float32, a page a slice (.nii.gz of NIfTI volumes)
    scores.csv, dsc.png                 of the patients with masks
    predictions.zip                     all of it

Legend: s slice, h height, w width.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtrain.data.preprocess import preprocess, to_source
from segtrain.data.sources.base import FLAIR, Input, Inputs
from segtrain.errors import LaunchError, RunError
from segtrain.evaluation.bars import Bar, chart
from segtrain.evaluation.ensemble import Chosen, ensemble_logits
from segtrain.evaluation.metrics import count
from segtrain.evaluation.overlays import overlay, sheet
from segtrain.evaluation.scores import EmptyMasks
from segtrain.runtime import files
from segtrain.runtime.allocator import use_allocator
from segtrain.runtime.terminal import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

COLUMNS = 8  # of a sheet
PACKED = (".png", ".gz")  # gain nothing in a zip


@dataclass(frozen=True)
class Prediction:
    """In the geometry of the input: probability float32 [s, h, w], its mask as it is scored."""

    probability_shw: NDArray[np.float32]
    mask_shw: NDArray[np.bool_]


@dataclass(frozen=True)
class Delivery:
    """The folder that is being written, and its zip."""

    folder: Path
    archive: ZipFile
    inputs: Inputs
    probabilities: bool

    def add(self, patient: str, found: Prediction, given: Input) -> None:
        """A patient's mask, pictures and, when asked for, probabilities."""
        for file in self.inputs.write_mask(patient, found.mask_shw, self.folder / "masks"):
            self._pack(file)
        if self.probabilities:
            folder = self.folder / "probabilities"
            self._pack(self.inputs.write_probability(patient, found.probability_shw, folder))
        pictures = []
        for place, (name, number) in enumerate(zip(given.names, given.numbers, strict=True)):
            mask_hw = found.mask_shw[place]
            true_hw = np.zeros_like(mask_hw) if given.truth_shw is None else given.truth_shw[place]
            picture = overlay(given.image_shwc[place, ..., FLAIR].astype(np.float32), mask_hw, true_hw)
            pictures.append((f"slice {number}", picture))
            self._draw(f"overlays/{patient}/{name}.png", picture)
        self._draw(f"sheets/{patient}.png", sheet(pictures, COLUMNS))

    def add_scores(self, rows: Sequence[dict[str, Any]], rule: str) -> None:
        """scores.csv, and dsc.png of the patients that have a DSC; `rule` for patients without lesion."""
        cells = [{**row, "dsc": None if row["dsc"] is None else f"{row['dsc']:.6f}"} for row in rows]
        files.write_text(self.folder / "scores.csv", files.csv_text(cells))
        self._pack(self.folder / "scores.csv")
        bars = [Bar(row["patient"], row["dsc"], row["trained_on"] == "yes") for row in rows if row["dsc"] is not None]
        if bars:
            self._draw("dsc.png", chart(bars, self.inputs.label, rule))

    def _draw(self, name: str, picture: NDArray[np.uint8]) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
        self._pack(file)

    def _pack(self, file: Path) -> None:
        packed = file.name.lower().endswith(PACKED)
        self.archive.write(file, file.relative_to(self.folder), ZIP_STORED if packed else ZIP_DEFLATED)


@contextmanager
def delivery(out: Path, inputs: Inputs, probabilities: bool) -> Iterator[Delivery]:
    """A delivery aside, which becomes `out` when all of it is written; nothing is left of it otherwise."""
    out = out.resolve()  # "." has no name to put beside
    aside = out.with_name(f".{out.name}.writing")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with ZipFile(aside / "predictions.zip", "w") as archive:
            yield Delivery(aside, archive, inputs, probabilities)
        if out.is_dir():
            out.rmdir()
        files.rename(aside, out)
    except OSError as error:
        raise RunError(
            f"{out}: cannot be written ({error.strerror or error}); free some space, or name another folder with --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_taken(out: Path, images: Path) -> None:
    """Raises RunError: `out` holds something, or lies where it would be taken for input."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is there already; name a new folder with --out")
    if out.resolve().is_relative_to(images.resolve()):
        raise RunError(f"{out}: inside --images, where it would be taken for a patient; name a folder elsewhere")


def _predict_all(
    chosen: Sequence[Chosen], inputs: Inputs, slices: dict[str, int], place: Delivery, rule: EmptyMasks
) -> list[dict[str, Any]]:
    """Write everything but the scores; returns their rows."""
    cfg = chosen[0].cfg
    use_allocator(cfg.allocator, cfg.device)
    from segtrain.runtime.world import join  # imports torch: seconds

    trained_on = frozenset[str]().union(*(one.train for one in chosen))
    rows = []
    with join(cfg.device, cfg.threads_per_rank, cfg.deterministic) as world:
        if world.size > 1:
            raise LaunchError(f"{world.size} processes, but segtrain predict is one; start it without torchrun")
        logits = ensemble_logits(chosen, world.device)
        with Progress("predict", total=sum(slices.values()), unit="slices") as bar:
            for patient in slices:
                row = _predict_one(chosen[0], logits, inputs, patient, place, world.device)
                if row is not None:
                    told = row["voxels"] > 0 or rule == "score"
                    seen = "yes" if patient in trained_on else "no"
                    rows.append({**row, "dsc": row["dsc"] if told else None, "trained_on": seen})
                bar.advance(slices[patient], patient=patient)
    return rows


def _predict_one(
    chosen: Chosen, logits: "Callable[[Tensor], Tensor]", inputs: Inputs, patient: str, place: Delivery,
    device: "torch.device",
) -> dict[str, Any] | None:  # fmt: skip
    """Deliver a patient; its counts, None where no truth is. A function, so that nothing of it stays in memory."""
    given = inputs.read(patient)
    for remark in given.remarks:
        log.info("patient %s: %s", patient, remark)
    found = predict_patient(chosen, logits, given.image_shwc, patient, device)
    place.add(patient, found, given)
    if given.truth_shw is None:
        return None
    c = count(found.mask_shw, given.truth_shw)
    return {
        "patient": patient, "slices": len(given.truth_shw), "voxels": c.tp + c.fn, "tp": c.tp, "fp": c.fp, "fn": c.fn,
        "dsc": c.dsc,
    }  # fmt: skip


def predict_patient(
    chosen: Chosen,
    logits: "Callable[[Tensor], Tensor]",
    image_shwc: NDArray[np.uint8],
    patient: str,
    device: "torch.device",
) -> Prediction:
    """What the network says of a volume, prepared as for training, and taken back to where it came from."""
    from segtrain.evaluation.evaluate import kept_components, predict_volume

    cfg = chosen.cfg
    everywhere = np.ones(image_shwc.shape[:3], np.uint8)  # preparation refuses an empty mask; its result is not used
    prepared = preprocess(image_shwc, everywhere, cfg.data.image_size, where=f"patient {patient}")
    stored_shwc = prepared.image_shwc.astype(np.float16)  # as the store holds it
    probability_shw = predict_volume(
        logits, stored_shwc, prepared.mask_shw, device, cfg.evaluate, cfg.data.neighbours
    )  # fmt: skip
    kept_shw = kept_components(probability_shw > np.float32(cfg.evaluate.threshold), cfg.evaluate)
    return Prediction(to_source(probability_shw, prepared.geometry), to_source(kept_shw, prepared.geometry))
