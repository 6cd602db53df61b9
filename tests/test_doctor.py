"""Each check of `segtrain doctor`, where all is well and where it is not; nothing is left behind."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from segtrain.commands import doctor
from segtrain.config import Config, DeepSpeedConfig, from_tree, to_yaml
from segtrain.data.store import Store
from segtrain.doctor import checks, disk, forecast, software, talk
from segtrain.doctor.finding import Finding
from segtrain.doctor.forecast import Trial
from segtrain.runtime import files

GIB = 2**30


def states(found: Iterator[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in found}


def segtrain(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segtrain", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


def test_the_whole_doctor_on_a_machine_that_can_train(tiny: Config, tiny_store: Store, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text(to_yaml(tiny))
    (tmp_path / "temporary").mkdir()
    left = sorted(tiny_store.path.parent.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "segtrain", "doctor", "--config", "given.yaml", "--json", "--price-per-hour", "3600"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PATH": str(Path(sys.executable).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert not told["will_fail"]
    found = {finding["check"]: finding for finding in told["findings"]}
    assert {
        "python", "packages", "device", "port", "all-reduce", "signals", "scheduler", "data", "memory", "forecast",
        "data.store: space", "data.store: rename and fsync", "data.store: locks", "runs_dir: space",
        "runs_dir: rename and fsync", "runs_dir: locks",
    } <= found.keys()  # fmt: skip
    assert "2 ranks on cpu: correct" in found["all-reduce"]["message"]
    assert found["listening"]["message"].startswith("ranks and their launcher: 127.0.0.1;")
    assert "measured" in found["memory"]["message"]
    slices = sum(patient.slices for patient in tiny_store.patients.values())
    assert sum(int(word) for word in found["data"]["message"].split() if word.isdigit()) == 10 + slices
    assert "costs about" in found["forecast"]["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.yaml", "temporary"]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(tiny_store.path.parent.iterdir()) == left
    mine = [p for p in psutil.process_iter(["environ"]) if str(tmp_path) in (p.info["environ"] or {}).get("TMPDIR", "")]
    assert not mine


def test_what_will_fail_makes_the_exit_code_2_and_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(talk, "check", lambda *_: iter([]))
    monkeypatch.setattr(forecast, "run_trial", lambda *_: Trial(error="no such network"))
    overrides = ["data.source=lgg", f"data.root={tmp_path}/nowhere", f"runs_dir={tmp_path}/runs", "--nproc", "2"]
    assert doctor.command([*overrides, f"data.store={tmp_path}/prepared"]) == 2
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{tmp_path}/nowhere" in shown.replace(" ", ""), "the name may go over a line's end"
    assert "->" in shown
    assert "no step can be taken: no such network" in shown
    assert list(tmp_path.iterdir()) == []


def test_python_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.python((3, 11)).state == software.python((3, 14)).state == "ok"
    assert software.python((3, 10)).state == "failure"
    assert software.packages().state == "ok"
    wanted = ["torch>=99", "no-such-package>=1", "numpy>=1", "deepspeed>=99 ; extra == 'deepspeed'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    found = software.packages()
    assert found.state == "failure"
    assert "torch" in found.message
    assert "no-such-package is missing" in found.message
    assert "numpy" not in found.message
    assert "deepspeed" not in found.message
    assert found.remedy == "pip install 'torch>=99' 'no-such-package>=1'"


def test_a_copy_of_the_code_that_is_not_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "DISTRIBUTION", "no-such-distribution")
    assert software.packages().state == "warning"


def test_devices_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert states(software.devices(Config(device="cpu"))) == {"device": "ok"}
    assert states(software.devices(Config(device="cuda")))["device"] == "failure"
    assert states(software.devices(Config(device="cpu", precision="tf32")))["precision"] == "failure"
    monkeypatch.setattr(software, "cpu_flags", lambda: frozenset({"avx2"}))
    assert states(software.devices(Config(device="cpu", precision="bf16")))["precision"] == "warning"
    monkeypatch.setattr(software, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    assert "precision" not in states(software.devices(Config(device="cpu", precision="bf16")))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert states(software.devices(Config()))["device"] == "warning"


def have_gpus(monkeypatch: pytest.MonkeyPatch, name: str, major: int, minor: int) -> None:
    """Two of them, as CUDA tells."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties",
        lambda index: SimpleNamespace(name=name, total_memory=80 * GIB, uuid=f"{index}", major=major, minor=minor),
    )
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    monkeypatch.setattr(software, "gpu_reader", lambda uuid: dict)


def test_a_gpu_without_units_for_a_precision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"fp32": {}, "ieee": {}, "fp16": {}, "bf16": {"precision": "warning"}, "tf32": {"precision": "failure"}}
    have_gpus(monkeypatch, "Tesla T4", 7, 5)
    for precision, findings in expected.items():
        cfg = from_tree({"precision": precision}, "")
        assert states(software.devices(cfg)) == {"device": "ok", **findings}
    (finding,) = [each for each in software.devices(Config(precision="tf32")) if each.check == "precision"]
    assert finding.message.startswith("Tesla T4 has no units for precision=tf32")
    have_gpus(monkeypatch, "A100", 8, 0)
    for precision in expected:
        assert states(software.devices(from_tree({"precision": precision}, ""))) == {"device": "ok"}


def test_a_gpu_that_tells_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    have_gpus(monkeypatch, "H100", 9, 0)
    monkeypatch.setattr(software, "gpu_reader", lambda uuid: None if uuid == "GPU-1" else dict)
    found = {finding.check: finding for finding in software.devices(Config())}
    assert found["device"].message.startswith("2 GPU(s): H100 80 GiB, H100 80 GiB")
    assert found["watching"].state == "warning"
    assert "GPU 1:" in found["watching"].message
    monkeypatch.setattr(software, "gpu_reader", lambda uuid: dict)
    assert set(states(software.devices(Config()))) == {"device"}


def test_deepspeed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = Config(engine="deepspeed", deepspeed=DeepSpeedConfig(zero=2))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert software.deepspeed(cfg).state == "failure"
    monkeypatch.undo()
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    assert software.deepspeed(cfg).state == "ok"
    assert capfd.readouterr().out == "", "it may not print into the JSON"
    monkeypatch.setattr(software, "OPS", "raise RuntimeError('no nvcc')")
    found = software.deepspeed(cfg)
    assert (found.state, "no nvcc" in found.message) == ("failure", True)


def test_without_torch_nothing_but_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    wanted = ["torch-is-not-here>=1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    assert states(checks.findings(Config(), 1, 1.0, None)) == {"packages": "failure"}


def test_a_port_that_is_taken_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as stranger:
        port = stranger.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        found = states(talk.ports())
        assert found["port"] == "failure"
        monkeypatch.delenv("MASTER_PORT")
        monkeypatch.setattr(talk, "DEFAULT_PORT", port)
        assert states(talk.ports())["port"] == "warning"
    assert states(talk.ports()) == {"port": "ok"}


READY = """
import json, os, signal, sys, time
rank = int(os.environ["RANK"])
{prelude}
ready = os.path.join(sys.argv[1], f"ready-{{rank}}.json")
with open(f"{{ready}}.tmp", "w") as file:
    json.dump({{"rank": rank, "sum": {total}, "seconds": 0.1, "device": "cpu"}}, file)
os.replace(f"{{ready}}.tmp", ready)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("prelude", "total", "expected"),
    [
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 1, {"all-reduce": "ok", "signals": "failure"}),
        ("", 7, {"all-reduce": "failure", "signals": "failure"}),
        ("raise RuntimeError('no route')", 1, {"all-reduce": "failure"}),
    ],
)
def test_ranks_that_are_deaf_or_cannot_add_are_found_and_ended(
    tmp_path: Path, prelude: str, total: int, expected: dict[str, str]
) -> None:
    script = tmp_path / "a_child_of_this_test.py"
    script.write_text(READY.format(prelude=prelude, total=total))
    began = time.monotonic()
    found = list(talk.check(Config(device="cpu"), 1, 1.0, child=(str(script),)))
    listening = {"listening": "ok"} if "signals" in expected else {}  # looked at once all ranks are there
    assert {finding.check: finding.state for finding in found} == expected | listening
    assert all(finding.remedy for finding in found if finding.state == "failure")
    if "no route" in prelude:
        assert "RuntimeError: no route" in found[0].message
    assert time.monotonic() - began < 200, "it does not wait for who sleeps"
    alive = [p for p in psutil.process_iter(["cmdline"]) if str(script) in " ".join(p.info["cmdline"] or [])]
    assert not alive


@pytest.mark.parametrize("asked", ["HOLD", "TAKE"])
def test_locks_that_are_never_answered_are_found_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(disk, asked, "import time; time.sleep(60)")
    monkeypatch.setattr(disk, "ANSWER_S", 2.0)
    began = time.monotonic()
    found = disk.locks("runs_dir", tmp_path)
    assert (found.state, found.check) == ("failure", "runs_dir: locks")
    assert "no answer to a request for a lock in 2 s" in found.message
    assert time.monotonic() - began < 20


def test_folders_that_cannot_be_written_or_have_no_room(
    tmp_path: Path, as_nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "SLOW_S", 60.0)
    writable, closed = tmp_path / "open", tmp_path / "closed"
    os.seteuid(0) if os.getuid() == 0 else None
    for folder, mode in ((writable, 0o777), (closed, 0o555)):
        folder.mkdir()
        folder.chmod(mode)
    there = writable / "not" / "yet"
    good = states(disk.check("runs_dir", there, 1))
    assert good == {f"runs_dir: {what}": "ok" for what in ("space", "rename and fsync", "locks")}
    assert list(writable.iterdir()) == []
    os.seteuid(65534) if os.getuid() == 0 else None  # root may write anywhere
    assert states(disk.check("runs_dir", closed / "runs", 1))["runs_dir: write"] == "failure"

    def small(free: int, inodes: int = 5) -> Any:
        return lambda folder: SimpleNamespace(f_bavail=free, f_frsize=1, f_files=9, f_favail=inodes)

    for vfs, state in ((small(99), "failure"), (small(150), "warning"), (small(200), "ok"), (small(200, 0), "failure")):
        monkeypatch.setattr(os, "statvfs", vfs)
        assert disk.space("data.store", tmp_path, 100).state == state


def test_a_file_system_that_does_not_keep_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder() -> Path:
        made = tmp_path / str(len(list(tmp_path.iterdir())))
        made.mkdir()
        return made

    def refuse(*_: Any) -> None:
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_folder", refuse)
        assert disk.durable("runs_dir", folder()).state == "failure"
    with monkeypatch.context() as patch:
        patch.setattr(files, "rename", lambda old, new: None)
        assert disk.durable("runs_dir", folder()).state == "failure"
    with monkeypatch.context() as patch:
        patch.setattr(disk, "SLOW_S", 0.0)
        assert disk.durable("runs_dir", folder()).state == "warning"
    with monkeypatch.context() as patch:
        patch.setattr(disk, "TAKE", "")
        found = disk.locks("runs_dir", folder())
        assert (found.state, "a second process" in found.message) == ("failure", True)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "HOLD", "raise SystemExit(1)")
        assert "cannot be taken" in disk.locks("runs_dir", folder()).message
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_free", lambda file: False)
        assert "a killed process keeps" in disk.locks("runs_dir", folder()).message


def test_a_number_of_ranks_that_cannot_share_the_batch_is_refused(tmp_path: Path) -> None:
    done = segtrain(tmp_path, "--nproc", "3")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "train.global_batch=16 cannot be shared" in done.stderr
