"""The people of the public LGG collection by name, whether their images are there or not.

Published scores of that collection are of ten of them. Source: the reference program draws these by
`random.Random(42).sample(sorted(patients), 10)`, of the collection's 110 folders.
"""

import random
from collections.abc import Iterable

from segtrain.config import DataConfig
from segtrain.errors import DataError

FOLDERS = {
    "CS": "4941 4942 4943 4944 5393 5395 5396 5397 6186 6188 6290 6665 6666 6667 6668 6669",
    "DU": "5849 5851 5852 5853 5854 5855 5871 5872 5874 6399 6400 6401 6404 6405 6407 6408 7008 7010 7013 7014 7018 "
    "7019 7294 7298 7299 7300 7301 7302 7304 7306 7309 8162 8163 8164 8165 8166 8167 8168 A5TP A5TR A5TS A5TT A5TU "
    "A5TW A5TY",
    "EZ": "7264",
    "FG": "5962 5964 6688 6689 6690 6691 6692 7634 7637 7643 8189 A4MT A4MU A60K",
    "HT": "7473 7475 7602 7605 7608 7616 7680 7684 7686 7690 7692 7693 7694 7855 7856 7860 7874 7877 7879 7881 7882 "
    "7884 8018 8105 8106 8107 8111 8113 8114 8563 A5RC A616 A61A A61B",
}
LGG = tuple(f"TCGA-{site}-{number}" for site, numbers in FOLDERS.items() for number in numbers.split())
VALIDATION = frozenset(random.Random(42).sample(LGG, 10))


def is_published(cfg: DataConfig, people: Iterable[str]) -> bool:
    """Whether `data.split=reference` means the ten published people: of that collection, with the usual draw."""
    default = DataConfig()
    usual = all(getattr(cfg, key) == getattr(default, key) for key in ("validation_patients", "split_seed"))
    return cfg.split == "reference" and cfg.source == "lgg" and usual and not set(LGG).isdisjoint(people)


def published_validation(cfg: DataConfig, people: Iterable[str]) -> frozenset[str] | None:
    """Those of the ten that are there; None where ten others are to be drawn.

    Raises DataError: some of the ten are missing, and `data.published` does not say what to do then.
    """
    there = VALIDATION.intersection(people)
    missing = sorted(VALIDATION - there)
    if missing and cfg.published == "redrawn":
        return None
    if missing and not (cfg.published == "present" and there):
        remedies = ["add them"]
        if there:
            remedies.append(f"set data.published=present to validate on the other {len(there)}")
        remedies.append("set data.published=redrawn to validate on ten of those that are there")
        raise DataError(
            f"split: {len(missing)} of the ten published validation patients of LGG are missing "
            f"({', '.join(missing)}); {', or '.join(remedies)}"
        )
    return there


def published_remark(cfg: DataConfig, people: Iterable[str], validating: Iterable[str]) -> str | None:
    """Which of the ten validate, for the log; None where that is no question."""
    if not is_published(cfg, people):
        return None
    missing = sorted(VALIDATION.difference(validating))
    if not missing:
        return "validation: the ten published patients"
    return f"validation: {10 - len(missing)} of the ten published patients; not among them: {', '.join(missing)}"
