"""Names of volumes' files: the patient, and the contrast or truth that the end of a name says.

Spellings are those of public sets. What a name cannot say (a second rater, a brain mask, an own word) is told apart by
its role and is never taken for an image or a truth by guess. Imports no nibabel.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import PurePath

from segtrain.config.regions import SPELLINGS, canonical


class Role(Enum):
    """What a file is, by its name."""

    CONTRAST = "contrast"
    OTHER = "other contrast"  # known, but not one that was asked for
    TRUTH = "truth"
    RATER = "rater"
    AUTOMATIC = "automatic"
    NEVER = "never"  # a brain mask, a bias field: neither image nor truth
    UNKNOWN = "unknown"


# Contrasts that sets have besides the four, of slices too; data.contrasts may name them.
OTHER_WORDS = (
    "pd", "dp", "dwi", "adc", "trace", "swi", "asl", "tof", "cbf", "cbv", "mtt", "tmax", "ct", "cta", "ncct", "bold",
    "hardi", "dti",
)  # fmt: skip
OTHERS = (*OTHER_WORDS, r"dti_eddy_\w+", r"ct_\w+")
# Of one case, the first of these that there are are its truth.
CONSENSUS = ("consensus_gt", "consensus_mask", "consensus", "ground_truth", r"glistrboost_manuallycorrected", "segm")
PLAIN = (
    "tumou?r_segmentation", "segmentations?", "seg", r"lesion[_-]mask", r"lesion[_-]msk", "t1lesion_mask", "mask",
    "msk", "labels?", "gtv", "gt", "wmh", "dseg", "probseg", "ot",
)  # fmt: skip
RATERS = (
    r"ground_truth_expert_?\d+", r"expert_?\d+", r"manualsegmentation_?\d+", r"mask_?\d+", r"observer_o?\d+",
    r"(?:lesions?[_-])?(?:rater|reader|annotator)[_-]?(?:\d+|[a-z])",
)  # fmt: skip
AUTOMATIC = (r"automated\w*", "glistrboost")
NEVER_TRUTH = (
    "brain_?mask", r"(?:brain_)?parenchyma(?:_segmentation)?", "brain_segmentation", r"(?:desc|label)-brain\w*_mask",
    r"(?:lvo|cow)[_-]msk", "roi", r"mask-(?:un)?healthy",
)  # fmt: skip
NEVER_PLAIN = ("bias", "unstripped", "withskull", "voided")  # after a contrast: another version of it
NEVER_FOLDERS = re.compile(r"old|coregistered_resampled|mni|.+_unstripped", re.IGNORECASE)
DROPPED = re.compile(r"(?:[_.-]pp|[_.-]preprocessed|[_.-]?reg|[_.-]brain)$", re.IGNORECASE)  # ends of processed images
BIDS = re.compile(r"(?:^|_)(?P<patient>sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?=_|$)")
SPACE = re.compile(r"_space-([A-Za-z0-9]+)(?=_|$)")
AGENT = re.compile(r"_ce-[A-Za-z0-9]+(?=_|$)")  # of BIDS: with a contrast agent
TIME_POINT = re.compile(r"(?:ses|session|time|timepoint|tp|visit|study|followup|fu|t)[-_]?\d+", re.IGNORECASE)
VISIT = re.compile(r"baseline|bl|follow[-_]?up|fu|pre[-_]?op|post[-_]?op", re.IGNORECASE)
DATE = re.compile(r"(?:19|20)\d\d([-_.]?)\d\d\1\d\d")
SERIES = re.compile(r"^(?:VSD|SMIR)\.Brain\w*\.(?P<what>.+?)\.\d+$", re.IGNORECASE)  # ISLES 2015, 2018
INPAINTING = re.compile(r"^BraTS-.+-mask$", re.IGNORECASE)  # where its images have a hole
BEFORE = r"^(?:(?P<patient>.+?)[_.\- ])??"


@dataclass(frozen=True)
class FileName:
    """A file's name, read.

    patient: the part before what it is, '' where the folder is the patient; what: the contrast's one name, or the
    truth's as it is spelled; rank: of several files for one contrast or truth the lowest is meant; space: of BIDS.
    """

    patient: str
    role: Role
    what: str = ""
    rank: int = 0
    space: str = ""


@dataclass(frozen=True)
class _Word:
    """The last word of a name: what it makes of the file, and the match with the part before."""

    role: Role
    match: re.Match[str] | None = None
    rank: int = 0


def read_name(stem: str, wanted: tuple[str, ...]) -> FileName:
    """What a file's name without its ending says; `wanted`: contrasts that are asked for besides the four."""
    series = SERIES.match(stem)
    name = series["what"].split(".")[-1].removeprefix("MR_") if series else stem
    word = _truth(name, wanted) or _contrast(name, wanted)
    what = word.match["what"] if word.match else name
    if word.role in (Role.CONTRAST, Role.OTHER):
        what = canonical(what)
        what = "t1ce" if what == "t1" and AGENT.search(stem) else what
    bids, space = BIDS.search(stem), SPACE.search(stem)
    before = (word.match["patient"] if word.match and not series else None) or ""
    return FileName(bids["patient"] if bids else before, word.role, what, word.rank, space[1] if space else "")


def _truth(name: str, wanted: tuple[str, ...]) -> _Word | None:
    """The word of a name that ends in that of a mask; None of other names."""
    if INPAINTING.match(name) or _ending(NEVER_TRUTH).match(name):
        return _Word(Role.NEVER)
    for role, endings in ((Role.RATER, RATERS), (Role.AUTOMATIC, AUTOMATIC)):
        if match := _ending(endings).match(name):
            return _Word(role, match)
    for rank, spellings in enumerate((CONSENSUS, PLAIN)):
        match = _ending(spellings).match(name)
        if match is None:
            continue
        before = read_contrast(match["patient"] or "", wanted)
        if before and before["patient"] and is_time_point(before["what"]):
            before = None  # P1_T1_MASK is of the first time point
        if before and match["what"].lower() in ("mask", "msk"):  # FLAIR_mask: where a face was cut off
            return _Word(Role.NEVER)
        return _Word(Role.TRUTH, match, rank)
    return None


def _contrast(name: str, wanted: tuple[str, ...]) -> _Word:
    """The word of a name that ends in that of an image."""
    other = _ending(NEVER_PLAIN).match(name)
    if other and read_contrast(other["patient"] or "", wanted):
        return _Word(Role.NEVER)
    match = read_contrast(name, wanted)
    if match is None:
        return _Word(Role.UNKNOWN)
    is_wanted = canonical(match["what"]) in {*SPELLINGS, *map(canonical, wanted)}
    is_3d = match["what"].lower().startswith("3d")  # 3DT1 beside T1 is another scan
    return _Word(Role.CONTRAST if is_wanted else Role.OTHER, match, int(is_3d))


def read_contrast(name: str, wanted: tuple[str, ...]) -> re.Match[str] | None:
    """The match of a name whose last word is a contrast: its groups `patient` and `what`."""
    spelled = tuple(spelling for name, spellings in SPELLINGS.items() for spelling in (name, *spellings))
    own = tuple(re.escape(canonical(contrast)) for contrast in wanted)
    pattern = _ending((*spelled, *own, *OTHERS))
    while True:
        if match := pattern.match(name):
            return match
        shorter = DROPPED.sub("", name)
        if shorter == name:
            return None
        name = shorter


@cache
def _ending(spellings: tuple[str, ...]) -> re.Pattern[str]:
    """Of names whose last word or words are one of the spellings, any case; the longest counts."""
    return re.compile(rf"{BEFORE}(?P<what>{'|'.join(spellings)})$", re.IGNORECASE)


def is_time_point(word: str) -> bool:
    """Whether a word, such as `ses-01` or `T1`, may be a time at which a patient was scanned."""
    return TIME_POINT.fullmatch(word) is not None


def is_visit(word: str) -> bool:
    """Whether a word names one of a patient's scans, and no patient: a time point, or the date of a study."""
    return is_time_point(word) or any(pattern.fullmatch(word) for pattern in (VISIT, DATE))


def is_rater(truth: FileName, rater: str) -> bool:
    """Whether the truth is that of the rater whom the config names: by a name, or by a number."""
    number = re.search(r"\d+$", truth.what)
    is_number = rater.isdecimal() and number is not None and int(number[0]) == int(rater)
    return is_number or truth.what.lower() == rater.lower() or truth.what.lower().startswith(f"{rater.lower()}_")


def stem_of(path: PurePath) -> str:
    """The file's name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
