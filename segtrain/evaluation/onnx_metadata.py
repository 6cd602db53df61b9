"""What a program that knows nothing of segtrain needs to use a network: the metadata of its ONNX file.

Imports no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from segtrain import __version__
from segtrain.config import DataConfig
from segtrain.data.preprocess import BACKGROUND, PERCENTILES, VERSIONS
from segtrain.data.splits import hash_of
from segtrain.data.zscore import ENDS
from segtrain.evaluation.ensemble import TrainedCheckpoint
from segtrain.evaluation.notice import licence_behind
from segtrain.run.layout import step_of
from segtrain.run.manifest import weights_sha256

INPUT, OUTPUT = "image", "probability"
RESIZED = (
    "each slice by a spline of order 2, as skimage.transform.resize(order=2, mode='constant', anti_aliasing=False), "
    "clipped to the range of the values before"
)


def metadata_of(one: TrainedCheckpoint, batch: str, check: Mapping[str, Any]) -> dict[str, str]:
    """Texts by key; what is no plain text is JSON. batch: any, or the only size. check: against torch."""
    data, cfg = one.cfg.data, one.cfg
    step, plane = step_of(one.folder.name), f"{data.image_size}, {data.image_size}"
    values: dict[str, Any] = {
        "made_by": f"segtrain {__version__}",
        "run": cfg.name,
        "checkpoint": {"step": step, "sha256": weights_sha256(one.folder), "best": one.is_best},
        "input": f"{INPUT}: float32 [batch, {data.channels}, {plane}]; batch: {batch}",
        "output": f"{OUTPUT}: float32 [batch, {len(data.layout.regions)}, {plane}], 0 to 1",
        "channels": channels_of(data),
        "regions": list(data.layout.regions),
        "preparation": {
            "protocol": data.protocol,
            "version": VERSIONS[data.protocol],
            "image_size": data.image_size,
            "spacing_mm": data.spacing_mm,
            "neighbours_mm": data.neighbours_mm,
            "missing": data.missing,
            "steps": steps_of(data),
        },
        "postprocessing": {region: asdict(cfg.evaluate.of(region)) for region in data.layout.regions},
        "test_time_augmentation": cfg.evaluate.tta,
        "split": {"sha256": hash_of(one.train, one.validation), "patients_trained": len(one.train)},
        "licence_of_the_data": licence_behind(one),
        "check": dict(check),
        "use": "For research. It is no medical device.",
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in values.items()
    }


def channels_of(data: DataConfig) -> list[str]:
    """The channels in order: the contrasts, of several slices slice by slice from below."""
    offsets = range(-data.neighbours, data.neighbours + 1)
    unit = "" if data.neighbours_mm is None else f" x {data.neighbours_mm:g} mm"
    where = {offset: f" of slice {offset:+d}{unit}" if offset else "" for offset in offsets}
    return [f"{contrast}{where[offset]}" for offset in offsets for contrast in data.contrast_names]


def steps_of(data: DataConfig) -> list[str]:
    """What is done to a volume [slice, height, width, contrast] before the network sees its slices, in order."""
    size = data.image_size
    padding = f"pad with zeros to {size} x {size}" if data.spacing_mm else "pad with zeros to a square"
    padding += ", floor of the difference / 2 before, the rest after"
    to_size = f"resample to {data.spacing_mm:g} mm in plane" if data.spacing_mm else f"resize to {size} x {size}"
    in_size = [f"{to_size}: {RESIZED}", padding] if data.spacing_mm else [padding, f"{to_size}: {RESIZED}"]
    if data.protocol == "reference":
        low, high = PERCENTILES
        inside = ", without the padding" if data.spacing_mm else ""
        steps = [
            "all contrasts in one range of grey levels, as in an RGB image",
            "leave out the first and the last slice",
            f"set voxels below {BACKGROUND:g} of the volume's maximum to 0, and crop to the box of the rest",
            *in_size,
            f"clip to the percentiles {low} and {high} of the whole volume{inside}, and scale them to 0 and 1",
            f"subtract each contrast's mean over the volume{inside}, and divide by its standard deviation",
        ]
    else:
        low_end, high_end = ENDS
        steps = [
            "crop to the box of the head: voxels above background in any contrast, holes filled in each slice",
            f"each contrast: clip to the percentiles {low_end:g} and {high_end:g} inside the head",
            "subtract its mean inside the head, and divide by its standard deviation there; 0 outside",
            *in_size,
            "0 outside the head, whose mask is resized by the nearest pixel",
        ]
    return [*steps, "round to float16 and give float32 [batch, channel, height, width]"]
