"""The command `segtrain predict`: masks of a folder of patients, in their own geometry, and pictures of them.

    <out>/masks/<patient>/<slice>_mask.tif     0 and 255, one for every slice of the input
          overlays/<patient>/<slice>.png       on FLAIR: prediction red, truth green, yellow where they agree
          sheets/<patient>.png                 all slices of a patient
          probabilities/<patient>.npy          with --probabilities: float16 [slice, height, width]
          scores.csv, dsc.png                  of the patients with masks
          predictions.zip                      all of it

Patient by patient: memory does not grow with their number. Legend: s slice, h height, w width, c channel.
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

from segtrain import files
from segtrain.bars import Bar, chart
from segtrain.cli import runs_and_overrides, runs_parser, start_logging
from segtrain.data.preprocess import preprocess
from segtrain.data.restore import to_source
from segtrain.data.sources import LggSource, RawVolume
from segtrain.display import Progress
from segtrain.errors import LaunchError, RunError
from segtrain.metrics import EMPTY_RULE, Counts, count, summarise
from segtrain.pictures import overlay, sheet
from segtrain.trained import Chosen, choose, ensemble_logits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain predict runs/lgg --images /data/new --out predictions
  segtrain predict runs/a runs/b --images /data/new --out predictions --probabilities evaluate.tta=flips

DIR: one folder a patient, <patient>/<patient>_<k>.tif with three channels (pre-contrast, FLAIR, post-contrast), k from
1; <patient>_<k>_mask.tif beside them if there are any. Where a contrast is missing, put FLAIR in its place: so does the
data that networks are trained on.
"""
FLAIR = 1
COLUMNS = 8  # of a sheet


@dataclass(frozen=True)
class Prediction:
    """In the geometry of the input: probability float32 [s, h, w], its mask as it is scored, the raw volume."""

    raw: RawVolume
    probability_shw: NDArray[np.float32]
    mask_shw: NDArray[np.bool_]


def command(argv: Sequence[str]) -> int:
    """Predict every patient of the folder; a broken one ends it, and nothing is left."""
    parser = runs_parser("segtrain predict", "Predict masks for a folder of patients.", EXAMPLES)
    parser.add_argument("--images", type=Path, metavar="DIR", required=True, help="the patients")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="where the predictions go: a new folder")
    parser.add_argument("--probabilities", action="store_true", help="also a probability map a patient (.npy, float16)")
    arguments = parser.parse_intermixed_args(list(argv))
    start_logging()
    runs, overrides = runs_and_overrides(arguments.words)
    chosen = choose(runs, arguments.checkpoint, overrides)
    source = LggSource(arguments.images, masks_needed=False)
    slices = {patient: len(source.images(patient)) for patient in source.patients()}  # names what is wrong
    with _new_folder(arguments.out, arguments.images) as aside:
        scores = _predict_all(chosen, source, slices, aside, arguments.probabilities)
    if new := [row["dsc"] for row in scores if row["trained_on"] == "no"]:
        log.info("mean DSC %s, not of patients that were trained on; %s", summarise(new), EMPTY_RULE)
    log.info("%d patients: %s", len(slices), arguments.out.resolve())
    return 0


@contextmanager
def _new_folder(out: Path, images: Path) -> Iterator[Path]:
    """A folder aside, which becomes `out` when all of it is written; nothing is left of it otherwise."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: is there already; name a new folder with --out")
    if out.resolve().is_relative_to(images.resolve()):
        raise RunError(f"{out}: inside --images, where it would be taken for a patient; name a folder elsewhere")
    aside = out.with_name(f".{out.name}.writing")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        if out.is_dir():
            out.rmdir()
        files.rename(aside, out)
    except OSError as error:
        raise RunError(
            f"{out}: cannot be written ({error.strerror or error}); free some space, or name another folder with --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _predict_all(
    chosen: Sequence[Chosen], source: LggSource, slices: dict[str, int], folder: Path, probabilities: bool
) -> list[dict[str, Any]]:
    """Write everything; returns the rows of scores.csv."""
    from segtrain.dist import join  # imports torch: seconds

    cfg = chosen[0].cfg
    trained_on = frozenset[str]().union(*(one.train for one in chosen))
    rows: list[dict[str, Any]] = []
    copied = 0
    with join(cfg.device, cfg.threads_per_rank) as world, ZipFile(folder / "predictions.zip", "w") as archive:
        if world.size > 1:
            raise LaunchError(f"{world.size} processes, but segtrain predict is one; start it without torchrun")
        logits = ensemble_logits(chosen, world.device)
        with Progress("predict", total=sum(slices.values()), unit="slices") as bar:
            for patient in slices:
                raw = source.read(patient)
                found = predict_patient(chosen[0], logits, raw, patient, world.device)
                truth_shw = raw.mask_shw.astype(bool) if source.has_masks(patient) else None
                copied += any(np.array_equal(raw.image_shwc[..., c], raw.image_shwc[..., FLAIR]) for c in (0, 2))
                _write_patient(folder, archive, source.images(patient), found, truth_shw, patient, probabilities)
                if truth_shw is not None:
                    rows.append(_row(patient, count(found.mask_shw, truth_shw), len(truth_shw), patient in trained_on))
                bar.advance(slices[patient], patient=patient)
        if rows:
            _write_scores(folder, archive, rows, source.label)
    if copied:
        log.info("%d of %d patients have FLAIR in the place of a missing contrast", copied, len(slices))
    return rows


def predict_patient(
    chosen: Chosen, logits: "Callable[[Tensor], Tensor]", raw: RawVolume, patient: str, device: "torch.device"
) -> Prediction:
    """What the network says of a volume, prepared as for training, and taken back to where it came from."""
    from segtrain.evaluate import kept_components, predict_volume

    cfg = chosen.cfg
    everywhere = np.ones_like(raw.mask_shw)  # preparation refuses an empty mask; its result is not used
    prepared = preprocess(raw.image_shwc, everywhere, cfg.data.image_size, where=f"patient {patient}")
    image_shwc = prepared.image_shwc.astype(np.float16)  # as the store holds it
    probability_shw = predict_volume(
        logits, image_shwc, prepared.mask_shw, device, cfg.evaluate, cfg.data.neighbours
    )  # fmt: skip
    kept_shw = kept_components(probability_shw > np.float32(cfg.evaluate.threshold), cfg.evaluate)
    geometry = prepared.geometry
    return Prediction(raw, to_source(probability_shw, geometry), to_source(kept_shw, geometry))


def _write_patient(
    folder: Path, archive: ZipFile, slices: Sequence[Path], found: Prediction, truth_shw: NDArray[np.bool_] | None,
    patient: str, probabilities: bool,
) -> None:  # fmt: skip
    for kind in ("masks", "overlays"):
        (folder / kind / patient).mkdir(parents=True)
    (folder / "sheets").mkdir(exist_ok=True)
    pictures = []
    for place, path in enumerate(slices):
        mask_hw = found.mask_shw[place]
        true_hw = np.zeros_like(mask_hw) if truth_shw is None else truth_shw[place]
        picture = overlay(found.raw.image_shwc[place, ..., FLAIR].astype(np.float32), mask_hw, true_hw)
        pictures.append((f"slice {found.raw.slice_numbers[place]}", picture))
        _save(folder, archive, f"masks/{patient}/{path.stem}_mask.tif", mask_hw.astype(np.uint8) * np.uint8(255))
        _save(folder, archive, f"overlays/{patient}/{path.stem}.png", picture)
    _save(folder, archive, f"sheets/{patient}.png", sheet(pictures, COLUMNS))
    if probabilities:
        (folder / "probabilities").mkdir(exist_ok=True)
        name = f"probabilities/{patient}.npy"
        np.save(folder / name, found.probability_shw.astype(np.float16))
        archive.write(folder / name, name, ZIP_DEFLATED)


def _row(patient: str, counts: Counts, slices: int, seen: bool) -> dict[str, Any]:
    return {
        "patient": patient, "slices": slices, "voxels": counts.tp + counts.fn, "tp": counts.tp, "fp": counts.fp,
        "fn": counts.fn, "dsc": counts.dsc, "trained_on": "yes" if seen else "no",
    }  # fmt: skip


def _write_scores(folder: Path, archive: ZipFile, rows: Sequence[dict[str, Any]], label: str) -> None:
    files.write_text(folder / "scores.csv", files.csv_text([{**row, "dsc": f"{row['dsc']:.6f}"} for row in rows]))
    archive.write(folder / "scores.csv", "scores.csv", ZIP_DEFLATED)
    bars = [Bar(row["patient"], row["dsc"], row["trained_on"] == "yes") for row in rows]
    _save(folder, archive, "dsc.png", chart(bars, label))


def _save(folder: Path, archive: ZipFile, name: str, picture: NDArray[np.uint8]) -> None:
    """A picture on disk and in the archive; masks are packed there, PNG is so already."""
    Image.fromarray(picture).save(folder / name)
    archive.write(folder / name, name, ZIP_STORED if name.endswith(".png") else ZIP_DEFLATED)
