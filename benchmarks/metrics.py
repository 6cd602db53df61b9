"""Row metrics: all scores of a patient's region in one pass, beside MONAI's and medpy's of the same volumes."""

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Line, Options, Variant, Work, measure
from segtrain.config import DataConfig
from segtrain.data.sources import make_source, read_with_mask
from segtrain.evaluation.region_scores import Rules, further_numbers, lesions_of, matched, numbers

SPACING_MM = (5.0, 0.9, 0.9)
SLICES, SIZE_PX = 33, 256
# Share of voxels that are false specks: none, and some two thousand, as an early epoch may predict.
SCENES = {"one lesion": 0.0, "one lesion and 2,000 specks": 1e-3}
REAL_PATIENTS = 4
Scores = dict[str, Any]
Pairs = Sequence[tuple[Any, Any]]
Turn = tuple[float, list[Scores]]  # CPU seconds a patient, and the scores of each


def volumes(specks: float, tiny: bool = False) -> tuple[Any, Any]:
    """Prediction and truth: an ellipsoid, three rows apart, and false specks."""
    rng = np.random.default_rng(0)
    s, h, w = np.mgrid[: 9 if tiny else SLICES, : 64 if tiny else SIZE_PX, : 64 if tiny else SIZE_PX]
    size = 0.25 if tiny else 1.0
    middle = (s.shape[0] / 2, 120 * size, 100 * size)
    lesion = ((s - middle[0]) / (6 * size)) ** 2 + ((h - middle[1]) / (30 * size)) ** 2
    lesion = lesion + ((w - middle[2]) / (25 * size)) ** 2 < 1
    return lesion | (rng.random(lesion.shape) < specks), np.roll(lesion, 3, 1)


def real_volumes(root: Path) -> Pairs:
    """Masks of real patients, spread over the list, as truth; the same three rows apart as prediction."""
    source = make_source(DataConfig(source="lgg", root=str(root)))
    patients = sorted(source.patients())
    masks = (read_with_mask(source, one)[1] > 0 for one in patients[:: max(1, len(patients) // REAL_PATIENTS)])
    return [(np.roll(mask, 3, 1), mask) for mask in masks][:REAL_PATIENTS]


def ours(predicted: Any, true: Any, lesions: str = "overlap") -> Scores:
    """All that `segtrain evaluate` says of a volume: overlap, surfaces, lesions with their table, volumes."""
    rules = Rules(lesions=lesions)
    row = numbers(predicted, predicted, true, rules, SPACING_MM)
    matching = matched(predicted, true, rules, SPACING_MM)
    assert matching is not None
    row |= further_numbers(predicted, true, matching, rules, SPACING_MM)
    row["rows"] = lesions_of("", "", "prepared", matching).of_all
    return row


def brats(predicted: Any, true: Any) -> Scores:
    """The same with the lesions of BraTS 2023, and so their HD95."""
    return ours(predicted, true, "brats2023")


def before(predicted: Any, true: Any) -> Scores:
    """What was scored before there were lesions, volumes and millimetres: overlap, and surfaces in voxels."""
    return numbers(predicted, predicted, true, Rules())


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


WAYS: dict[str, tuple[Callable[[Any, Any], Scores], str]] = {
    "ours": (ours, ""),
    "brats2023": (brats, "ours with --lesions brats2023 and its HD95"),
    "before": (before, "ours without lesions, volumes and mm"),
    "MONAI": (monais, "MONAI: DSC and surfaces"),
    "medpy": (medpys, "medpy: DSC, surfaces, recall and precision of lesions"),
}


def _work(world: object, scene: float | Path, tiny: bool) -> Work:
    pairs = real_volumes(scene) if isinstance(scene, Path) else [volumes(scene, tiny)]

    def work() -> dict[str, Turn]:
        """Each way once. CPU time: other processes on the machine are not counted."""
        turns: dict[str, Turn] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI's of itself
            for way, (score, _) in WAYS.items():
                started = time.process_time()
                scores = [score(*pair) for pair in pairs]
                turns[way] = (time.process_time() - started) / len(pairs), scores
        return turns

    return work


def metrics(options: Options) -> list[Line]:
    """CPU time a patient, the least of the turns. All ways give the same scores, where they have them."""
    scenes: dict[str, float | Path] = dict(SCENES)
    if options.lgg:
        scenes["real masks, moved by three rows"] = options.lgg
    lines = []
    for name, scene in scenes.items():
        turns = measure([Variant(name, _work, (scene, options.tiny), threads=1)], options.repeat)[name].values
        for way in ("MONAI", "medpy"):
            for one, other in zip(turns[0]["ours"][1], turns[0][way][1], strict=True):
                # Real lesions may match several; medpy gives each one partner.
                shared = {k: v for k, v in other.items() if not (isinstance(scene, Path) and k.startswith("lesion"))}
                assert disagreement(one, shared) < 1e-5, f"{name}: ours and {way}'s scores differ"
        least_s = {way: min(turn[way][0] for turn in turns) for way in WAYS}
        for way in list(WAYS)[1:]:
            what = f"a patient, {name}, all scores and the table of lesions; {WAYS[way][1]}, CPU, least of {len(turns)}"
            mine, theirs = (f"{1000 * least_s[one]:.0f} ms" for one in ("ours", way))
            lines.append(Line("metrics", what, mine, theirs, f"{least_s[way] / least_s['ours']:.2f}x"))
    return lines
