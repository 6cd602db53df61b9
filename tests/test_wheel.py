"""What is installed from a wheel: all that the checkout's package has, its templates and configs included."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_holds_templates_and_configs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("segtrain-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = {str(p.relative_to(ROOT)) for p in (ROOT / "segtrain").rglob("*") if p.is_file() and _ours(p)}
    configs = {f"segtrain/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    assert {"segtrain/report/page.html.j2", "segtrain/report/page.css", "segtrain/configs/phantom.yaml"} <= held
    assert package | configs <= held


def _ours(path: Path) -> bool:
    return path.suffix in (".py", ".j2", ".css", ".js", ".typed")
