"""The configuration of made-up patients. Imports no torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from segtrain.config.regions import BRATS_REGIONS, LESION, LGG_CONTRASTS, SPELLINGS, canonical

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Millimetres = Annotated[float, Field(gt=0)]


def _check_phantom_contrasts(contrasts: tuple[str, ...]) -> tuple[str, ...]:
    names = [canonical(contrast) for contrast in contrasts]
    if not set(names) <= set(SPELLINGS) or len(set(names)) < len(names):
        raise ValueError(f"made-up patients have {', '.join(SPELLINGS)}, each once, under any of their names")
    return contrasts


@dataclass(frozen=True, config=STRICT)
class PhantomConfig:
    """Made-up patients: their number, seed, size of a slice before preparation, contrasts and regions."""

    patients: int = Field(default=24, ge=2)  # number of made-up patients
    seed: int = Field(default=0, ge=0)  # of the made-up patients
    size_px: int = Field(default=128, ge=64)  # side of a slice before preparation
    contrasts: Annotated[Names, AfterValidator(_check_phantom_contrasts)] = LGG_CONTRASTS  # of t1, t1ce, t2, flair
    regions: Literal[1, 3] = 1  # 1: the lesion; 3: whole, core, enhancing, as in BraTS
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None  # between slices, rows, columns
    scans: int = Field(default=1, ge=1)  # of each person
    unlabelled: float = Field(default=0.0, ge=0, lt=1)  # share of slices that nobody labelled

    @property
    def labels(self) -> dict[str, tuple[int, ...]] | None:
        """The labels of each region; None: one region, in black and white."""
        if self.regions > 1:
            return dict(BRATS_REGIONS)
        return {LESION: (1,)} if self.unlabelled else None

    @property
    def ignore(self) -> tuple[int, ...]:
        """The label of voxels that nobody knows, where there are some."""
        return (self.regions + 1,) if self.unlabelled else ()
