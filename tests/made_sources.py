"""Sources whose patients lie in memory, to prepare what no file format stands between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segtrain.config import LGG_CONTRASTS, DataConfig
from segtrain.data import prepare
from segtrain.data.sources import LabelRules, Volume
from segtrain.data.sources.base import plain_slice_names
from segtrain.data.store import Store


def volume_of(image_shwc: np.ndarray, mask_shw: np.ndarray | None, **options: Any) -> Volume:
    """A volume with slices numbered from 1."""
    slices = len(image_shwc)
    return Volume(image_shwc, mask_shw, plain_slice_names(slices), tuple(range(1, slices + 1)), **options)


@dataclass(frozen=True)
class MadeSource:
    """Volumes by patient; their labels become bits by the rules, as a source of files does it."""

    volumes: Mapping[str, Volume]
    rules: LabelRules = field(default_factory=LabelRules)
    contrasts: tuple[str, ...] = LGG_CONTRASTS
    label: str = "volumes made by a test"

    def patients(self) -> list[str]:
        return sorted(self.volumes)

    def slices(self, patient: str) -> int:
        return len(self.volumes[patient].image_shwc)

    def fingerprint(self, check: Any = None) -> str:
        return "0123456789abcdef"

    def stamp(self) -> None:
        return None

    def takes(self, name: str) -> bool:
        return False

    def institution(self, patient: str) -> str:
        return "unknown"

    def read(self, patient: str) -> Volume:
        return self.volumes[patient]

    def write_mask(self, patient: str, mask_shw: np.ndarray, folder: Path) -> list[Path]:
        raise NotImplementedError

    def write_probability(self, patient: str, probability_shw: np.ndarray, folder: Path) -> Path:
        raise NotImplementedError


def head(seed: int, shape: tuple[int, int, int] = (6, 32, 32), contrasts: int = 3) -> np.ndarray:
    """uint16 [s, h, w, c]: a head of 300 to 1000 with a border of 0, no two alike."""
    image_shwc = np.zeros((*shape, contrasts), np.uint16)
    inside = image_shwc[:, 4:-4, 4:-4]
    inside[...] = np.random.default_rng(seed).integers(300, 1000, inside.shape)
    return image_shwc


def labelled(labels_shw: np.ndarray, rules: LabelRules, image_shwc: np.ndarray | None = None, **options: Any) -> Volume:
    """A volume with a mask of labels, read by the rules as a NIfTI file is."""
    mask = rules.read_any(Path("made_seg.nii.gz"), labels_shw)
    image = head(int(labels_shw.sum()), labels_shw.shape) if image_shwc is None else image_shwc
    return volume_of(image, mask.bits, label_voxels=mask.voxels, remarks=mask.remarks, **options)


def store_of(source: MadeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Store:
    """The store that is prepared of the source, in this process."""
    monkeypatch.setattr(prepare, "make_source", lambda cfg: source)
    settings = {"image_size": 32, "workers": 1, "source": "slices", "root": str(tmp_path), **options}
    return prepare.ensure_store(DataConfig(store=str(tmp_path / "prepared"), **settings))
