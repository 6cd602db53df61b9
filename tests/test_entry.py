"""The entries of the package, before any command runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from segtrain import __main__, __version__
from segtrain.train import main as train_main

WINDOWS = """\
import runpy, sys
import segtrain.runtime.launcher, segtrain.runtime.process  # with the standard library, which may know where it is
sys.modules["fcntl"] = None
sys.platform = "win32"
sys.argv = ["segtrain", *{arguments}]
runpy.run_module({module!r}, run_name="__main__")
"""


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["segtrain", "--version"])
    assert __main__.main() == 0
    assert capsys.readouterr().out == f"segtrain {__version__}\n"


@pytest.mark.law("L12")
def test_elsewhere_than_on_linux_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sys, "argv", ["segtrain", "doctor"])
    for main in (__main__.main, train_main):
        assert main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "this system is darwin, segtrain needs Linux; use" in line


@pytest.mark.parametrize(("module", "arguments"), [("segtrain", ["train"]), ("segtrain.train", [])])
def test_it_is_said_before_a_module_is_imported_that_windows_lacks(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    code = WINDOWS.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "this system is win32" in done.stderr
