"""What an installation holds: the wheel all that the two packages need and no more, the editable one the same paths."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

from segtrain import DISTRIBUTION, __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("segtrain", "jobs")


def build(kind: str, folder: Path) -> zipfile.ZipFile:
    """The wheel that pip would build of the checkout."""
    code = f"from hatchling.build import build_{kind} as build; build({str(folder)!r})"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_packages_templates_and_configs(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = {p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file() and _ours(p)}
    names = (p for p in (ROOT / "configs").rglob("*.*") if p.suffix in (".yaml", ".py"))
    configs = {f"segtrain/{p.relative_to(ROOT)}" for p in names}
    assert {"segtrain/report/page.html.j2", "segtrain/report/page.css", "segtrain/configs/phantom.yaml"} <= held
    assert {"segtrain/py.typed", "jobs/py.typed", "jobs/offline/__main__.py", "jobs/job.sh"} <= held
    assert {str(p.relative_to(ROOT)) for p in files} | configs == {name for name in held if not name.endswith(".md")}


def test_its_metadata_keep_it_from_being_uploaded_by_mistake(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = message_from_string(wheel.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == (DISTRIBUTION, __version__)
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
    assert metadata["Author"]
    assert metadata["Keywords"]
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_changelog_and_the_citation_have_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest, *_ = re.findall(r"^## (\d\S*) \((.+)\)$", changelog, re.MULTILINE)
    assert newest[0] == __version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == __version__
    assert f"{citation['date-released']:%-d %B %Y}" == newest[1]
    named = re.findall(r"\b(?:docs|configs|slurm|docker)/[\w/.]+\.\w+", changelog)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_from_the_wheel_configs_are_found_and_a_submission_carries_code_that_finds_them(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    installed, work = tmp_path / "site-packages", tmp_path / "work"
    wheel.extractall(installed)
    (installed / "configs").mkdir()  # a stranger's package
    (tmp_path / ".git").mkdir()  # whoever's project the virtual environment lies in
    work.mkdir()
    code = (
        "import json\n"
        "from pathlib import Path\n"
        "from jobs import submission\n"
        "from jobs.resources import Resources\n"
        "from segtrain.config import builtin_config, load_config\n"
        "made = submission.create('runs', 'x', [load_config(None, ['name=x'])], Resources())\n"
        "print(json.dumps([str(builtin_config('lgg.yaml')), str(made.code), made.record['commit']]))"
    )
    config, snapshot, commit = json.loads(_run(code, work, installed))
    assert Path(config) == installed / "segtrain" / "configs" / "lgg.yaml"
    assert commit is None
    assert sorted(path.name for path in Path(snapshot).iterdir()) == ["jobs", "segtrain"]
    code = "from jobs.resources import presets; from segtrain.config import builtin_config; print(presets()[0])"
    assert Path(_run(code, work, Path(snapshot))).is_relative_to(snapshot)


def _run(code: str, folder: Path, packages: Path) -> str:
    environment = {name: os.environ[name] for name in os.environ if name != "SEGTRAIN_COMMIT"}
    command = [sys.executable, "-c", code]
    environment["PYTHONPATH"] = str(packages)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_editable_install_puts_nothing_but_the_packages_on_the_path(tmp_path: Path) -> None:
    """Also where a folder is named like a package, as in the one that holds a clone."""
    build("editable", tmp_path).extractall(tmp_path / "site-packages")
    (tmp_path / "segtrain").mkdir()
    code = (
        "import importlib.util, site, sys\n"
        f"site.addsitedir({str(tmp_path / 'site-packages')!r})\n"
        f"sys.path.append({sysconfig.get_path('purelib')!r})\n"  # appended: its .pth files are not read
        "import jobs, segtrain.config as config\n"
        "assert not [name for name in ('tests', 'benchmarks', 'docs', 'docker') if importlib.util.find_spec(name)]\n"
        "print(config.builtin_config('phantom.yaml'))"
    )
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "configs" / "phantom.yaml")


def _ours(path: Path) -> bool:
    return path.suffix in (".py", ".sh", ".j2", ".css", ".js", ".typed")
