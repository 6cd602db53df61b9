"""Contrasts and regions by name, and the bits that regions have in a mask. Imports no torch.

A mask is uint8: bit r is set where the voxel is in region r, and IGNORED alone where nobody knows. Of one region it is
0 and 1.
"""

from dataclasses import dataclass

LGG_CONTRASTS = ("pre-contrast", "FLAIR", "post-contrast")
LESION = "lesion"
BRATS_REGIONS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}  # labels as in BraTS 2023
IGNORED = 1 << 7
MOST_REGIONS = 7
ZEROS = "zeros"  # in place of a missing contrast

# Spellings of the four contrasts that most sets have: endings of files' names, and names in data.contrasts.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "t1": ("t1n", "t1w", "3dt1", "mprage", "t1pre", "pre", "pre-contrast"),
    "t1ce": (
        "t1c",
        "t1gd",
        "t1gado",
        "3dt1gado",
        "gado",
        "t1post",
        "t1-post",
        "post",
        "t1wce",
        "t1wks",
        "post-contrast",
    ),
    "t2": ("t2w",),
    "flair": ("t2f", "fla", "3dflair", "t2flair"),
}
_CONTRAST = {spelling: name for name, spellings in SPELLINGS.items() for spelling in (name, *spellings)}


def canonical(contrast: str) -> str:
    """One name of a contrast that has several: `t1ce` of `T1Gd`; other names in small letters."""
    return _CONTRAST.get(contrast.lower(), contrast.lower())


@dataclass(frozen=True)
class MaskLayout:
    """The regions of a mask's bits, in order, and whether some of its voxels are IGNORED."""

    regions: tuple[str, ...] = (LESION,)
    ignores: bool = False

    @property
    def planes(self) -> int:
        """Channels of an unpacked mask: the regions, then the ignored voxels where there may be some."""
        return len(self.regions) + self.ignores

    @property
    def largest(self) -> int:
        """The largest value that a voxel of the mask can have."""
        return IGNORED if self.ignores else (1 << len(self.regions)) - 1

    @property
    def is_plain(self) -> bool:
        """Whether the mask is its own only plane."""
        return self.planes == 1
