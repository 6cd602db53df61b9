"""What gives wrong training or scores without any error: judged over all patients by the figures of `measured.py`.

Each check is a function of the patients, which yields warnings with their figures; what is certain raises DataError.
The thresholds leave the 100 patients of the published LGG data and the phantoms without a warning.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from segtrain.data.people import is_tcga_lgg
from segtrain.data.sources import LISTED, first_few
from segtrain.data.tissues import FEWEST, DataSet, channel_order, tissues
from segtrain.errors import DataError

LARGE_SHARE, WHOLE_HEAD = 0.1, 0.5  # of the head, that is lesion: told, refused
BLANK_SHARE = 0.01  # of the lesion's voxels, where no contrast shows anything
SAME_HEAD = 0.99  # correlation of two thumbnails
AT_ONCE = 1000  # thumbnails that are compared with all others
FEWEST_HEADS = 5  # of which the mean shows a direction
TURNED = 0.05  # by how much better a thumbnail fits the others when it is turned
LONE_VOXELS = 0.3  # the brightest percentile as a part of the range, where the maximum is that of lone voxels
MOST_DRAWN = 10  # slices with truth, of a set that draws the same number in each patient
GAPPY = 0.5  # share of slices with truth between the first and the last
HUNDREDFOLD = 100
OBLONG = 0.05  # difference of a pixel's sides
SCANS, SCANS_OF_ONE = 6.0, 12  # ids that share a stem: on average, at most

SCAN_NUMBER = re.compile(r"(?P<stem>.*\d.*)[-_](?:[A-Za-z]{0,4}\d{1,3})")


def judge(data: DataSet) -> list[str]:
    """Warnings on the data set. Raises DataError for what is wrong for certain."""
    return [warning for check in CHECKS for warning in check(data)]


def scans_of_one_person(data: DataSet) -> Iterator[str]:
    """Ids that differ in a last number alone and are taken for as many people."""
    stems = defaultdict(list)
    for patient in data.ids:
        if match := SCAN_NUMBER.fullmatch(patient):
            stems[match["stem"]].append(patient)
    shared = [ids for ids in stems.values() if len({data.people[patient] for patient in ids}) > 1]
    sizes = [len(ids) for ids in stems.values()]
    if len(stems) > 1 and shared and np.mean(sizes) <= SCANS and max(sizes) <= SCANS_OF_ONE:
        yield (
            f"{sum(map(len, shared))} patient ids differ from others in a last number alone ({first_few(shared[0])}): "
            "if they are scans of one person, a split may put them on both sides; list them in data.groups=FILE.csv"
        )


def same_heads(data: DataSet) -> Iterator[str]:
    """Patients of different people whose heads look the same; BraTS cases that are published as LGG too."""
    thumbnails = np.stack([one.thumbnail.ravel() for _, one in data.patients])
    ids = data.ids
    number, shown = 0, list[str]()
    for pairs in _alike(thumbnails, [data.people[patient] for patient in ids]):
        number += len(pairs)
        shown += [f"{ids[i]} and {ids[j]}" for i, j in pairs[: LISTED - len(shown)]]
    if number:
        more = f" and {number - len(shown)} more" if number > len(shown) else ""
        yield (
            f"{number} pairs of patients look like one head (correlation above {SAME_HEAD}): {', '.join(shown)}{more}; "
            "if they are, list them in data.groups=FILE.csv, or keep one of each"
        )
    if known := sum(map(is_tcga_lgg, ids)):
        yield (
            f"{known} BraTS cases are TCGA-LGG patients, most of them in the published LGG data too; do not train on "
            "one set and test on the other"
        )


def _alike(thumbnails: NDArray[np.float32], people: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """Pairs of rows of different people with a correlation above SAME_HEAD, [pair, 2] for each block of rows.

    All products of 100,000 rows at once would take 40 GB.
    """
    person = np.unique(np.array(people), return_inverse=True)[1]
    for first in range(0, len(thumbnails), AT_ONCE):
        block, rest = slice(first, first + AT_ONCE), slice(first, None)
        hits = thumbnails[block] @ thumbnails[rest].T > SAME_HEAD
        hits &= person[block, None] != person[None, rest]
        yield np.argwhere(np.triu(hits, 1)) + first


def large_lesions(data: DataSet) -> Iterator[str]:
    """Masks that are no lesions: of the brain, soft ones taken above 0, of a face that was removed."""
    shares = np.array([one.lesion_share for _, one in data.patients])
    remedy = "check that masks are of lesions, not of the brain, and that every label is what data.regions says"
    if (median := float(np.median(shares))) > WHOLE_HEAD:
        raise DataError(f"lesion is {median:.0%} of the head in the median of {len(shares)} patients; {remedy}")
    if median > LARGE_SHARE:
        yield f"lesion is {median:.0%} of the head in the median of {len(shares)} patients; {remedy}"
    elif whole := [entry.patient for entry, one in data.patients if one.lesion_share > WHOLE_HEAD]:
        yield f"lesion is more than {WHOLE_HEAD:.0%} of the head in {first_few(whole)}; {remedy}"


def lesions_off_the_head(data: DataSet) -> Iterator[str]:
    """Truth on another grid of the same size."""
    off = {entry.patient: one.blank_share for entry, one in data.patients if one.blank_share > BLANK_SHARE}
    if off:
        worst = max(off, key=lambda patient: off[patient])
        yield (
            f"in {len(off)} patients more than {BLANK_SHARE:.0%} of the lesion lies where all contrasts are 0 "
            f"({off[worst]:.0%} in {worst}); check that their masks belong to these images and are on their grid"
        )


def unlabelled_slices(data: DataSet) -> Iterator[str]:
    """Truth that was drawn on some slices alone, so that the rest is no background."""
    drawn = [np.flatnonzero(entry.areas) for entry, _ in data.patients if any(entry.areas)]
    if len(drawn) < FEWEST:
        return
    numbers = {len(places) for places in drawn}
    filled = float(np.median([len(places) / (places[-1] - places[0] + 1) for places in drawn]))
    slices = sum(entry.slices for entry, _ in data.patients)
    share = sum(map(len, drawn)) / slices
    remedy = "the others may be unlabelled rather than background; mark them with a label of data.ignore"
    if len(numbers) == 1 and (number := numbers.pop()) <= MOST_DRAWN and share < 1:
        yield f"every patient has truth on exactly {number} slices ({share:.0%} of all); {remedy}"
    elif filled < GAPPY:
        yield (
            f"between a patient's first and last slice with truth {filled:.0%} have some (median of {len(drawn)} "
            f"patients); {remedy}"
        )
    names = [patient for patient in data.ids if re.search(r"time0?\d|study\d", patient, re.IGNORECASE)]
    if names:
        yield (
            f"ids like {first_few(names[:2])} are of sets whose masks may show changes between two scans, not all "
            "lesions; check what the masks are"
        )


def scaling(data: DataSet) -> Iterator[str]:
    """Ranges that lone voxels or a slice's own maximum set."""
    for contrast in data.contrasts:
        parts = [part for _, one in data.patients if (part := one.brightest.get(contrast, 1.0)) < LONE_VOXELS]
        if parts:
            yield (
                f"{contrast}: 99.9% of the voxels are below {max(parts):.0%} of the maximum in {len(parts)} patients: "
                "its brightest voxels are outliers; data.protocol=zscore takes robust ends"
            )
        low = [value for _, one in data.patients if (value := one.darkest.get(contrast, 0.0)) < 0]
        if low:
            yield f"{contrast}: background is 0, but not the darkest value ({min(low):g}) in {len(low)} patients"
    stretched = [one.stretched for _, one in data.patients]
    if len(stretched) >= FEWEST and float(np.median(stretched)) == 1:
        yield (
            f"every slice's maximum is 255 in {sum(share == 1 for share in stretched)} of {len(stretched)} patients: "
            "slices seem to be stretched one by one, so that grey values differ between them; export volumes with one "
            "range"
        )


def turned_heads(data: DataSet) -> Iterator[str]:
    """Patients that are upside down against the others: headers of two sets may mean opposite directions."""
    if len(data.patients) < FEWEST_HEADS:
        return
    thumbnails = np.stack([one.thumbnail for _, one in data.patients])
    for axis, what in ((1, "slices"), (2, "rows")):
        turned = _minority(thumbnails, axis)
        if turned.any():
            ids = [patient for patient, is_turned in zip(data.ids, turned, strict=True) if is_turned]
            yield (
                f"{len(ids)} of {len(turned)} patients fit the others better with the order of {what} reversed "
                f"({first_few(ids)}); look at them, headers of different sets may mean opposite directions"
            )


def _minority(thumbnails: NDArray[np.float32], axis: int) -> NDArray[np.bool_]:
    """Which of the thumbnails fit the mean of the others clearly better when they are reversed along the axis."""
    both = np.stack([thumbnails, np.flip(thumbnails, axis)]).reshape(2, len(thumbnails), -1)
    # The side of the first patient starts, so that two halves of opposite directions do not blur each other.
    is_turned = both[1] @ both[0, 0] > both[0] @ both[0, 0]
    for _ in range(5):
        oriented = np.where(is_turned[:, None], both[1], both[0])
        total = oriented.sum(axis=0)
        gain = ((both[1] - both[0]) @ total - _own(both, oriented)) / (len(thumbnails) - 1)
        if ((gain > 0) == is_turned).all():
            break
        is_turned = gain > 0
    if is_turned.mean() > 0.5:
        is_turned, gain = ~is_turned, -gain
    has_direction = float(np.median(-gain[~is_turned])) > TURNED  # else the heads are alike both ways
    clear: NDArray[np.bool_] = is_turned & (gain > TURNED) & has_direction
    return clear


def _own(both: NDArray[np.float32], oriented: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each thumbnail itself adds to its gain."""
    return np.asarray(((both[1] - both[0]) * oriented).sum(axis=1))


def spacings(data: DataSet) -> Iterator[str]:
    """Pixels that are not square. Raises DataError for spacings that differ a hundredfold."""
    known = {entry.patient: entry.spacing_mm for entry, _ in data.patients if entry.spacing_mm is not None}
    for axis, what in enumerate(("slices", "rows", "columns")):
        by_mm = sorted((spacing[axis], patient) for patient, spacing in known.items())
        if by_mm and by_mm[-1][0] > HUNDREDFOLD * by_mm[0][0]:
            raise DataError(
                f"{what} of {by_mm[0][1]} are {by_mm[0][0]:g} mm apart, and of {by_mm[-1][1]} {by_mm[-1][0]:g} mm; "
                "correct the header of the one that is wrong"
            )
    oblong = Counter(
        f"{row:.3g} x {column:.3g} mm" for _, row, column in known.values() if abs(row - column) > OBLONG * row
    )
    if oblong and not data.is_resampled:
        yield (
            f"pixels are oblong in {oblong.total()} patients (rows x columns: {first_few(list(oblong))}), but are "
            "taken for square; data.spacing_mm=1 resamples them to squares of 1 mm"
        )


CHECKS: tuple[Callable[[DataSet], Iterator[str]], ...] = (
    tissues,
    scans_of_one_person,
    same_heads,
    large_lesions,
    lesions_off_the_head,
    channel_order,
    unlabelled_slices,
    scaling,
    turned_heads,
    spacings,
)
