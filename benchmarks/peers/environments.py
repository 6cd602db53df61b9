"""The programs that segtrain is compared with, and an environment of its own for each."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.patches import PATCHES
from benchmarks.peers.watch import last_line

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = "https://github.com/mateuszbuda/brain-segmentation-pytorch"
COMMIT = "d45f8908ab2f0246ba204c702a6161c9eb25f902"
# torch is named in each, so that constraints.txt holds it at segtrain's version, which has a build for CPUs alone.
PACKAGES = {
    "reference": ["torch", "numpy", "scikit-image", "medpy", "tqdm", "tensorboard", "pillow"],
    "monai": ["torch", "monai", "numpy", "pillow"],
    "nnunet": ["torch", "nnunetv2==2.8.1"],
}
INSTALL_S = 1800


class UnavailableError(Exception):
    """An environment or a program cannot be had; the message is one line."""


@dataclass(frozen=True)
class Place:
    """Where the environments and programs are, and whether missing ones may be made."""

    folder: Path
    install: bool


def python_of(peer: str, place: Place) -> Path:
    """The Python of the peer's environment, which is made where it is not there. Raises UnavailableError."""
    environment = place.folder / peer / "venv"
    python = environment / "bin" / "python"
    stamp = environment / "installed"
    wanted = "\n".join(PACKAGES[peer]) + "\n" + (ROOT / "constraints.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    if not place.install:
        raise UnavailableError("there is no environment of its own, and --no-install was given")
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(environment)])
    _run([str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *PACKAGES[peer]])
    stamp.write_text(wanted)
    return python


def _run(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{Path(argv[0]).name}: {error}") from None
    if done.returncode:
        raise UnavailableError(last_line(done.stderr) or f"{argv[0]} ended with {done.returncode}")


def reference_program(place: Place, source: Path | None, validation: int) -> Path:
    """A copy of the reference program, patched so that it runs on today's libraries. Raises UnavailableError."""
    if source is None:
        source = place.folder / "reference" / "source"
        if not (source / "train.py").exists():
            if not place.install:
                raise UnavailableError("no --reference FOLDER was given, and --no-install was")
            shutil.rmtree(source, ignore_errors=True)
            _run(["git", "clone", "--quiet", REFERENCE, str(source)])
            _run(["git", "-C", str(source), "checkout", "--quiet", COMMIT])
    program = place.folder / "reference" / "patched"
    shutil.rmtree(program, ignore_errors=True)
    program.mkdir(parents=True)
    for name in ("train.py", "dataset.py", "loss.py", "transform.py", "unet.py", "utils.py"):
        if not (source / name).exists():
            raise UnavailableError(f"{source} has no {name}")
        text = (source / name).read_text()
        for patch in PATCHES:
            if patch.file == name:
                new = patch.new.format(validation=validation)
                if patch.old not in text:
                    raise UnavailableError(f"{name} has no {patch.old!r} to patch")
                text = text.replace(patch.old, new)
        (program / name).write_text(text)
    return program
