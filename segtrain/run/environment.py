"""The packages, device, code, data and command of a start of a run: an entry of environment.json (L15)."""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from segtrain.config.schema import Precision
from segtrain.run.stored import built
from segtrain.runtime import cpus
from segtrain.runtime.launcher import job_id, launcher

PACKAGE = Path(__file__).resolve().parent.parent
CHECKOUT = PACKAGE.parent  # of a wheel: site-packages
DECISIVE = ("torch", "numpy", "scipy", "deepspeed")  # other versions may compute other last digits
FLOAT32 = "float32"
TF32_CONVOLUTIONS = "TF32 convolutions, float32 products"
ON_CUDA: dict[Precision, str] = {
    "fp32": TF32_CONVOLUTIONS,
    "ieee": FLOAT32,
    "tf32": "TF32 convolutions and products",
    "bf16": "bfloat16 convolutions and products",
    "fp16": "float16 convolutions and products",
}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What one start used. A field that an entry lacks has its default.

    packages: the version of every installed distribution. libraries: CUDA, cuDNN, NCCL and driver, where there is a
    GPU. arithmetic: number types of convolutions and matrix products. code_sha256: of segtrain's own Python files.
    git_commit: of segtrain's checkout, with -dirty where tracked files differ from it; None where it is not known.
    store: the folder of the prepared data, whose name ends in their fingerprint. launcher: who named the job: segtrain,
    slurm or torchrun. cluster: SLURM's name of it.
    """

    time: str = ""  # ISO 8601
    job: str | None = None
    launcher: str | None = None
    cluster: str | None = None
    command: str | None = None
    python: str | None = None
    platform: str | None = None
    packages: Mapping[str, str | None] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    world_size: int | None = None
    device: str | None = None
    device_name: str | None = None
    arithmetic: str | None = None
    cores: int | None = None
    git_commit: str | None = None
    code_sha256: str | None = None
    store: str | None = None

    @classmethod
    def now(
        cls,
        world_size: int,
        device: str,
        device_name: str | None = None,
        libraries: Mapping[str, str] | None = None,
        store: str | None = None,
        precision: Precision = "fp32",
        has_tf32: bool = False,
    ) -> Self:
        """That of this process; `has_tf32`: whether its device is a GPU with units for it."""
        return cls(
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            job=job_id(),
            launcher=launcher(),
            cluster=os.environ.get("SLURM_CLUSTER_NAME"),
            command=shlex.join(sys.orig_argv),
            python=platform.python_version(),
            platform=platform.platform(),
            packages=_packages(),
            libraries=dict(libraries or {}),
            world_size=world_size,
            device=device,
            device_name=device_name,
            arithmetic=arithmetic_of(precision, device, has_tf32),
            cores=cpus.usable(),
            git_commit=commit(),
            code_sha256=code_sha256(),
            store=store,
        )

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """That of an entry. Raises ValueError: damaged."""
        return built(cls, tree)

    @property
    def began_s(self) -> float:
        """When the start began, in seconds since the epoch. Raises ValueError or TypeError: `time` is no time."""
        return datetime.fromisoformat(self.time).timestamp()


def commit(checkout: Path = CHECKOUT) -> str | None:
    """The commit of this code, with -dirty where tracked files differ from it; None where it is not known.

    SEGTRAIN_COMMIT, which a submission's snapshot and an image set, comes first. A wheel in a virtual environment, or
    sources unpacked within another project, are tracked by nobody: the other project's commit is not this code's.
    """
    if noted := os.environ.get("SEGTRAIN_COMMIT"):
        return noted
    if not (checkout / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    environment["GIT_CEILING_DIRECTORIES"] = str(checkout.parent)  # git looks no further up for a repository
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def code_sha256(package: Path = PACKAGE) -> str:
    """SHA-256 of the package's Python files, by their paths and contents: 11 ms."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def changed_since(starts: Sequence[Environment]) -> Iterator[str]:
    """What the last start uses otherwise than the one before.

    segtrain's code, Python, DECISIVE packages, libraries, the arithmetic.
    """
    if len(starts) < 2:
        return
    before, now = starts[-2:]
    if before.code_sha256 and before.code_sha256 != now.code_sha256:
        commits = f"commit {before.git_commit or 'unknown'} then, {now.git_commit or 'unknown'} now"
        yield f"segtrain's own code has changed since this run's last start ({commits})"
    pairs = [("Python", before.python, now.python)]
    pairs += [(name, before.packages.get(name), now.packages.get(name)) for name in DECISIVE]
    pairs += [(name, before.libraries.get(name), now.libraries.get(name)) for name in ("cuda", "cudnn", "nccl")]
    pairs.append(("the arithmetic", before.arithmetic, now.arithmetic))
    for name, earlier, later in pairs:
        if earlier and later and earlier != later:
            yield f"{name} was {earlier} at this run's last start and is {later}"
    on_gpu = (before.device or "").startswith("cuda")
    if on_gpu and before.arithmetic is None and now.arithmetic == TF32_CONVOLUTIONS:
        yield (
            "precision=fp32 may have meant float32 convolutions at this run's last start, whose version did not record "
            "it, and means TF32 convolutions now (precision=ieee convolves in float32)"
        )


def arithmetic_of(precision: Precision, device: str, has_tf32: bool) -> str:
    """Number types of convolutions and matrix products; all else is float32, and all on a GPU without TF32."""
    if precision in ("bf16", "fp16") or (device.startswith("cuda") and has_tf32):
        return ON_CUDA[precision]
    return FLOAT32


def _packages() -> dict[str, str | None]:
    """Every installed distribution and its version, by lower-case names."""
    versions: dict[str, str | None] = {}
    for distribution in metadata.distributions():
        name, version = _name_and_version(distribution)
        if name:  # what an interrupted pip leaves has none
            versions.setdefault(name.lower(), version)  # the first on the path is what is imported
    return dict(sorted(versions.items()))


def _name_and_version(distribution: metadata.Distribution) -> tuple[str | None, str | None]:
    """As `distribution.metadata` has them, whose parser of e-mails takes a tenth of a second for 150 distributions."""
    head = (distribution.read_text("METADATA") or "").partition("\n\n")[0]
    name, version = (re.search(rf"^{key}: (.*\S)", head, re.MULTILINE) for key in ("Name", "Version"))
    if name and version:
        return name[1], version[1]
    return distribution.metadata["Name"], distribution.version
