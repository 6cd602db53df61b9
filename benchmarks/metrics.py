"""Row metrics: all scores of a patient's region in one pass, beside MONAI's and medpy's of the same volumes."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Line, Options, Variant, Work, measure
from segtrain.evaluation.lesion_table import lesion_table
from segtrain.evaluation.lesions import lesion_scores, match
from segtrain.evaluation.metrics import count
from segtrain.evaluation.surface import surface_scores
from segtrain.evaluation.volumes import volume_scores

SPACING_MM = (5.0, 0.9, 0.9)
SLICES, SIZE_PX = 33, 256
# Share of voxels that are false specks: none, and some two thousand, as an early epoch may predict.
SCENES = {"one lesion": 0.0, "one lesion and 2,000 specks": 1e-3}
Scores = dict[str, Any]


def volumes(specks: float, tiny: bool = False) -> tuple[Any, Any]:
    """Prediction and truth: an ellipsoid, three rows apart, and false specks."""
    rng = np.random.default_rng(0)
    s, h, w = np.mgrid[: 9 if tiny else SLICES, : 64 if tiny else SIZE_PX, : 64 if tiny else SIZE_PX]
    size = 0.25 if tiny else 1.0
    middle = (s.shape[0] / 2, 120 * size, 100 * size)
    lesion = ((s - middle[0]) / (6 * size)) ** 2 + ((h - middle[1]) / (30 * size)) ** 2
    lesion = lesion + ((w - middle[2]) / (25 * size)) ** 2 < 1
    return lesion | (rng.random(lesion.shape) < specks), np.roll(lesion, 3, 1)


def ours(predicted: Any, true: Any) -> Scores:
    """Counts and DSC, surfaces, lesions with their table, volumes."""
    matching = match(predicted, true, spacing_mm=SPACING_MM)
    scores: Scores = {"dsc": count(predicted, true).dsc}
    scores |= surface_scores(predicted, true, SPACING_MM) | lesion_scores(matching)
    scores |= volume_scores(predicted, true, SPACING_MM)
    scores["rows"] = len(lesion_table(matching))
    return scores


def monais(predicted: Any, true: Any) -> Scores:
    """DSC and surfaces; MONAI has no scores of lesions."""
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.surface_dice import compute_surface_dice
    from monai.metrics.surface_distance import compute_average_surface_distance

    p, t = (torch.from_numpy(volume)[None, None] for volume in (predicted, true))
    whole: Any = {"include_background": True, "spacing": SPACING_MM}
    values = {
        "dsc": compute_dice(p.float(), t.float()),
        "hd95_mm": compute_hausdorff_distance(p, t, percentile=95, **whole),
        "assd_mm": compute_average_surface_distance(p, t, symmetric=True, **whole),
        "nsd_1mm": compute_surface_dice(p, t, class_thresholds=[1.0], **whole),
        "nsd_2mm": compute_surface_dice(p, t, class_thresholds=[2.0], **whole),
    }
    return {name: float(value) for name, value in values.items()}


def medpys(predicted: Any, true: Any) -> Scores:
    """DSC, HD95 (by its own definition), ASSD, and shares of objects, which it names the other way round."""
    from medpy.metric.binary import assd, dc, hd95, obj_fpr, obj_tpr

    return {
        "dsc": dc(predicted, true),
        "pooled_hd95_mm": hd95(predicted, true, SPACING_MM),
        "assd_mm": assd(predicted, true, SPACING_MM),
        "lesion_recall": obj_tpr(true, predicted, connectivity=3),
        "lesion_precision": 1 - obj_fpr(true, predicted, connectivity=3),
    }


def disagreement(one: Scores, other: Scores) -> float:
    """The largest relative difference of the scores that both have."""
    shared = one.keys() & other.keys()
    return max(float(abs(one[name] - other[name]) / max(1e-3, abs(other[name]))) for name in shared)


def _work(world: object, score: Callable[[Any, Any], Scores], specks: float, tiny: bool) -> Work:
    predicted, true = volumes(specks, tiny)

    def work() -> Scores:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI's of itself
            return score(predicted, true)

    return work


def metrics(options: Options) -> list[Line]:
    """Time a patient, on one core. All ways give the same scores, where they have them."""
    lines = []
    for scene, specks in SCENES.items():
        ways = {"ours": ours, "MONAI": monais, "medpy": medpys}
        timings = measure(
            [Variant(name, _work, (way, specks, options.tiny), threads=1) for name, way in ways.items()],
            options.repeat,
        )
        mine = timings["ours"]
        for name, what in (("MONAI", "DSC and surfaces"), ("medpy", "DSC, surfaces, recall and precision of lesions")):
            theirs = timings[name]
            assert disagreement(mine.values[0], theirs.values[0]) < 1e-5, f"ours and {name}'s scores differ"
            ratio = theirs.median_s / mine.median_s
            lines.append(
                Line(
                    "metrics",
                    f"a patient, {scene}: all scores and the table of lesions; {name}: {what}",
                    f"{1000 * mine.median_s:.0f} ms",
                    f"{1000 * theirs.median_s:.0f} ms",
                    f"{ratio:.2f}x",
                )
            )
    return lines
