"""NIfTI volumes whose patients and contrasts are found by the names of files and folders."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from segtrain.config import LGG_CONTRASTS
from segtrain.data.sources.cases import WHOLE, Case
from segtrain.data.sources.images import NIFTI_SUFFIXES
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.listing import escaped, folders_of, is_broken_link, refuse_odd_names, with_suffix
from segtrain.data.sources.volumes import VolumeSource, stem_of
from segtrain.errors import DataError

Role = Literal["volume", "pre", "flair", "post", "mask"]
ROLES: dict[str, Role] = {
    "pre": "pre", "t1": "pre", "t1n": "pre", "flair": "flair", "t2f": "flair", "post": "post", "t1ce": "post",
    "t1c": "post", "t1gd": "post", "mask": "mask", "seg": "mask",
}  # fmt: skip
CONTRAST_OF: dict[Role, str] = {"volume": WHOLE, **dict(zip(("pre", "flair", "post"), LGG_CONTRASTS, strict=True))}
UNUSED = ("t2", "t2w")  # other collections have it; the networks do not take it
NAME = re.compile(rf"^(?:(?P<patient>.+)[_-])?(?P<what>{'|'.join((*ROLES, *UNUSED))})$", re.IGNORECASE)


@dataclass(frozen=True)
class NiftiSource(VolumeSource):
    """For each patient a 4-D volume (three contrasts last) or a file for each contrast, in `root` or folders below it.

    `<patient>_pre|_t1|_t1n`, `_flair|_t2f`, `_post|_t1ce|_t1c|_t1gd`, the mask in `_mask|_seg`; a file named only
    `flair` belongs to the patient that its folder is named for. Without data.regions any label above 0 is lesion.
    """

    @property
    def label(self) -> str:
        return f"NIfTI volumes in {escaped(str(self.root))}"

    @property
    def contrasts(self) -> tuple[str, ...]:
        return self.cfg.contrasts or LGG_CONTRASTS

    @property
    def rules(self) -> LabelRules:
        return LabelRules.of(self.cfg)

    @cached_property
    def cases(self) -> dict[str, Case]:
        by_patient: dict[str, dict[Role, Path]] = {}
        for folder in (self.root, *folders_of(self.root)):
            if is_broken_link(folder):
                by_patient[folder.name] = {"flair": folder}  # opening it names the link
            for path in with_suffix(folder, NIFTI_SUFFIXES):
                match = NAME.match(stem_of(path))
                role: Role = "volume"
                if match is not None:
                    if match["what"].lower() in UNUSED:
                        continue
                    role = ROLES[match["what"].lower()]
                patient = stem_of(path) if match is None else match["patient"] or folder.resolve().name
                files = by_patient.setdefault(patient, {})
                if role in files:
                    raise DataError(
                        f"{path}: a second {role} of patient {patient}, beside {files[role]}; keep one of them here"
                    )
                files[role] = path
        return {patient: _case(patient, files) for patient, files in sorted(by_patient.items())}

    def patients(self) -> list[str]:
        if not self.cases:
            raise DataError(
                f"{self.root}: 0 patients with FLAIR or a volume of three contrasts; add <patient>_flair.nii.gz"
            )
        refuse_odd_names(list(self.cases), self.root)
        return list(self.cases)


def _case(patient: str, files: dict[Role, Path]) -> Case:
    first = next(iter(files.values()))
    if "volume" not in files and "flair" not in files:
        raise DataError(f"{first}: patient {patient} has no FLAIR; add {patient}_flair.nii.gz, or one volume of three")
    if "volume" in files and len(files.keys() - {"mask"}) > 1:
        raise DataError(f"{files['volume']}: a volume beside files of contrasts; keep the one or the others")
    images = {CONTRAST_OF[role]: path for role, path in files.items() if role != "mask"}
    return Case(images, files.get("mask"))
