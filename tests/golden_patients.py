"""The two patients whose preparation by the reference program lies in the golden folder, and real ones beside them."""

import io
import tarfile
from pathlib import Path

from PIL import Image

GOLDEN_PATIENTS = ("TCGA_CS_5393_19990606", "TCGA_HT_7602_19951103")


def unpack(archives: list[Path], root: Path) -> None:
    """Six patients of the archives, those two among them, in the published layout."""
    wanted = set(GOLDEN_PATIENTS)
    with tarfile.open(archives[0]) as tar:
        wanted |= set(sorted({member.name.split("/")[0] for member in tar})[:5])
    wanted = set(sorted(wanted, key=lambda p: (p not in GOLDEN_PATIENTS, p))[:6])
    for archive in archives:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.split("/")[0] in wanted:
                    _as_tiff(tar, member, root)
    assert sorted(p.name for p in root.iterdir()) == sorted(wanted)


def _as_tiff(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    stored = tar.extractfile(member)
    assert stored is not None
    target = (root / member.name).with_suffix(".tif")
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(stored.read())).convert("L" if member.name.endswith(".png") else "RGB").save(target)
