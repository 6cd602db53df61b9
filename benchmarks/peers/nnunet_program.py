"""nnU-Net's 2D trainer on the same work, as it is but for what is listed in `settle` and `limit`.

python -m benchmarks.peers.nnunet_program prepare|train WORK.json
The environment variables nnUNet_raw, nnUNet_preprocessed and nnUNet_results name its folders.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from PIL import Image

from benchmarks.peers.work import Work, mark, mark_flops, mark_versions

NUMBER, NAME = 1, "Dataset001_Peers"
VARIABLE = "nnUNet_{}"  # of the environment
RAW_PX = 256  # of a side of the published images


def convert(work: Work, folder: Path) -> None:
    """Write the patients as nnU-Net wants them: a compressed NIfTI volume a contrast, in voxels of 1 x 1 x 5."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()

    def write(volume_shw: Any, file: Path) -> None:
        image = SimpleITK.GetImageFromArray(volume_shw)
        image.SetSpacing((1.0, 1.0, 5.0))
        SimpleITK.WriteImage(image, str(file))

    for name in work.patients:
        masks = sorted((Path(work.raw) / name).glob("*_mask.tif"), key=lambda file: int(file.stem.split("_")[-2]))
        masks = masks[1:-1]
        images = [mask.with_name(mask.name.replace("_mask", "")) for mask in masks]
        image_shwc = np.stack([np.asarray(Image.open(file)) for file in images])
        for channel in range(3):
            write(np.ascontiguousarray(image_shwc[..., channel]), folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        mask_shw = np.stack([np.asarray(Image.open(file)) for file in masks]) > 0
        write(mask_shw.astype(np.uint8), folder / "labelsTr" / f"{name}.nii.gz")
    about = {
        "channel_names": {"0": "pre-contrast", "1": "FLAIR", "2": "post-contrast"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(work.patients),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))


def settle(work: Work, folder: Path) -> None:
    """Make the plan's 2D network, image size and batch those of the others; all else stays as planned."""
    file = folder / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    two = plans["configurations"]["2d"]
    two["batch_size"] = work.batch
    two["patch_size"] = [work.size_px, work.size_px]
    two["spacing"] = [RAW_PX / work.size_px] * 2
    network = two["architecture"]["arch_kwargs"]
    network["n_stages"] = 5
    network["features_per_stage"] = [work.features * factor for factor in (1, 2, 4, 8, 16)]
    network["kernel_sizes"] = [[3, 3]] * 5
    network["strides"] = [[1, 1]] + [[2, 2]] * 4
    network["n_conv_per_stage"] = [2] * 5
    network["n_conv_per_stage_decoder"] = [2] * 4
    file.write_text(json.dumps(plans, sort_keys=False))
    split = [{"train": work.train, "val": work.validation}]
    (folder / "splits_final.json").write_text(json.dumps(split))


def prepare(work: Work) -> None:
    convert(work, Path(os.environ[VARIABLE.format("raw")]) / NAME)
    workers = len(os.sched_getaffinity(0))
    extract_fingerprints([NUMBER], num_processes=workers, check_dataset_integrity=False, show_progress_bar=False)
    plan_experiments([NUMBER])
    settle(work, Path(os.environ[VARIABLE.format("preprocessed")]) / NAME)
    preprocess([NUMBER], configurations=["2d"], num_processes=[workers], show_progress_bar=False)


def limit(trainer: Any, work: Work) -> None:
    """As many epochs and steps as the others have, and no mirrored copies where patients are scored."""
    trainer.num_epochs = work.epochs
    trainer.num_iterations_per_epoch = work.steps
    trainer.num_val_iterations_per_epoch = -(-work.validation_slices // work.batch)


def _after(trainer: Any, name: str, then: Callable[[], None]) -> None:
    method = getattr(trainer, name)

    def wrapper(*arguments: Any) -> Any:
        value = method(*arguments)
        then()
        return value

    setattr(trainer, name, wrapper)


def train(work: Work) -> None:
    folder = Path(os.environ[VARIABLE.format("preprocessed")]) / NAME
    plans, about = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "2d", 0, about, torch.device("cpu"))
    limit(trainer, work)
    steps = 0

    def stepped() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            mark("first_step")

    _after(trainer, "initialize", lambda: mark_flops(trainer.network, work.size_px))
    _after(trainer, "on_train_epoch_start", lambda: mark("resumed"))
    _after(trainer, "train_step", stepped)
    _after(trainer, "on_train_epoch_end", lambda: mark("trained", images=steps * work.batch))
    trainer.run_training()
    mark("scoring")
    trainer.inference_allowed_mirroring_axes = None
    trainer.perform_actual_validation()
    scores = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    mark("evaluated", dsc=scores["foreground_mean"]["Dice"])


def main() -> None:
    work = Work.read(sys.argv[2])
    if sys.argv[1] == "prepare":
        prepare(work)
    else:
        mark_versions("torch", "nnunetv2", "numpy")
        train(work)


if __name__ == "__main__":
    main()
