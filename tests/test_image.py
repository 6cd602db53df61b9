"""The images, as far as they can be checked without building them: both are made by the same steps from the lock file.

TRY_IMAGE=1 also runs the steps of the Dockerfile in a clean virtual environment, minutes; TRY_PYTHON names the Python,
which is 3.12 in the images.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCKER = (ROOT / "docker" / "Dockerfile").read_text()
APPTAINER = (ROOT / "docker" / "segtrain.def").read_text()
INSTALL = "sh docker/install.sh"


def copied(dockerfile: str) -> list[tuple[str, str]]:
    """Source and target below /opt/segtrain of each COPY, in order."""
    lines = [line.split()[1:] for line in dockerfile.splitlines() if line.startswith("COPY ")]
    return [(source, source if target == "./" else target) for *sources, target in lines for source in sources]


def test_both_images_copy_and_install_alike() -> None:
    files = APPTAINER.partition("%files\n")[2].partition("\n\n")[0].splitlines()
    theirs = {tuple(line.replace("/opt/segtrain/", "").split()) for line in files}
    ours = {pair for pair in copied(DOCKER) if pair[0] != "segtrain/__init__.py"}  # of the whole, ahead of the rest
    assert theirs == ours
    base = re.search(r"^ARG BASE=(.*)$", DOCKER, re.MULTILINE)
    assert base
    assert f"From: {base[1]}\n" in APPTAINER
    for text in (DOCKER, APPTAINER):
        assert f"{INSTALL} /opt/venv" in text
        assert "python3 python3-venv python3-dev g++" in text, "model.compile=true needs the last two"


def test_the_images_are_installed_by_the_command_that_make_uses() -> None:
    """From the lock file, and with nothing beside it."""
    command = re.compile(
        r"pip\"? install (?:--no-cache-dir )?(--disable-pip-version-check -q -c constraints\.txt -e) \"?\."
    )
    make = (ROOT / "Makefile").read_text()
    assert "\nCONSTRAINTS ?= constraints.txt\n" in make
    ours = command.findall((ROOT / "docker/install.sh").read_text())
    theirs = command.findall(make.replace("$(CONSTRAINTS)", "constraints.txt"))
    assert len(ours) == 1
    assert ours[0] in theirs
    assert not re.search(r"pip\S* install", DOCKER + APPTAINER)


def test_all_that_the_image_copies_is_there_and_reaches_it() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source, _ in copied(DOCKER):
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in let_through), source
    for name in let_through:
        assert (ROOT / name).exists(), name


def test_the_image_runs_as_nobody_in_particular_and_enters_segtrain() -> None:
    assert re.findall(r"^USER (.*)$", DOCKER, re.MULTILINE) == ["10001"]
    assert 'ENTRYPOINT ["segtrain"]' in DOCKER
    assert 'exec segtrain "$@"' in APPTAINER


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_steps_of_the_image_make_a_working_installation(tmp_path: Path) -> None:
    if not os.environ.get("TRY_IMAGE"):
        pytest.skip("minutes: TRY_IMAGE=1 runs the Dockerfile's steps in a clean virtual environment")
    home, venv, python = tmp_path / "segtrain", tmp_path / "venv", os.environ.get("TRY_PYTHON", "python3")
    asked = [python, "-c", "import sys; print(sys.executable)"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "HTTP", "http", "SSL", "HOME"))}
    clean = {**kept, "PATH": f"{Path(found.stdout.strip()).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    before, after = DOCKER.split(f"{INSTALL} /opt/venv")
    _copy(before, home)
    subprocess.run(["sh", "docker/install.sh", str(venv)], cwd=home, env=clean, check=True)
    _copy(after, home)
    freeze = [str(venv / "bin" / "pip"), "freeze", "--exclude-editable"]
    frozen = subprocess.run(freeze, capture_output=True, text=True, check=True)
    locked = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    ours = [line.split("+")[0] for line in frozen.stdout.lower().replace("_", "-").splitlines()]
    assert not [line for line in ours if line not in locked and not line.startswith(("nvidia-", "triton", "cuda-"))]
    work = tmp_path / "work"
    work.mkdir()
    small = ["data.phantom={patients: 6, size_px: 64}", "data.image_size=32", "model.features=4", "train.epochs=1"]
    for command in (
        ["segtrain", "networks"],
        ["segtrain", "train", "name=image", "device=cpu", "data.validation_patients=2", *small],
        ["segtrain", "report", "runs/image", "--out", "report"],
        ["python", "-m", "jobs.offline", "--help"],
    ):
        done = subprocess.run([venv / "bin" / command[0], *command[1:]], cwd=work, env=clean, check=False)
        assert done.returncode == 0, command
    assert (work / "report" / "index.html").exists()


def _copy(dockerfile: str, home: Path) -> None:
    for source, target in copied(dockerfile):
        (home / target).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, home / target, dirs_exist_ok=True, ignore=unwanted)
        else:
            shutil.copyfile(ROOT / source, home / target)
