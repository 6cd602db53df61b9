"""L15: what a start of a run used is in environment.json, and the report says what was trained."""

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from made_runs import train, train_event
from trainings import run_to_end

from segtrain.config import Config, TrainConfig, from_tree
from segtrain.report.collect import collect
from segtrain.report.cost import cost
from segtrain.report.facts import text_of
from segtrain.report.write import make
from segtrain.run import Environment, Run
from segtrain.run.environment import CHECKOUT, arithmetic_of, changed_since, code_sha256, commit
from segtrain.runtime import machine

NOW = Environment.now(2, "cpu", "A Processor", {"cuda": "12.4"}, "lgg-64px-fingerprint")
ON_GPU = replace(NOW, device="cuda:0", arithmetic=arithmetic_of("fp32", "cuda:0", has_tf32=True))


@pytest.mark.law("L15")
def test_every_installed_package_is_on_record() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {one["name"].lower(): one["version"] for one in json.loads(listed.stdout)}
    assert expected.items() <= dict(NOW.packages).items()
    assert NOW.packages["torch"] == metadata.version("torch")
    assert NOW.command == shlex.join(sys.orig_argv)


@pytest.mark.law("L15")
@pytest.mark.parametrize(
    ("file", "text", "recorded"),
    [
        ("METADATA", "Metadata-Version: 2.4\nName: Some.Thing\nVersion: 1.0\n\nName: other\nVersion: 2\n", "1.0"),
        ("METADATA", "Metadata-Version: 2.4\r\nname: Some.Thing\r\nversion: 1.0\r\n", "1.0"),
        ("PKG-INFO", "Metadata-Version: 1.1\nName: Some.Thing\nVersion: 1.0\nSummary: Name: other\n", "1.0"),
        ("METADATA", "", None),  # as an interrupted pip leaves it
    ],
)
def test_a_version_is_that_of_the_metadata_s_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, recorded: str | None
) -> None:
    suffix = "egg-info" if file == "PKG-INFO" else "dist-info"
    folder = tmp_path / f"some_thing-9.9.{suffix}"
    folder.mkdir()
    (folder / file).write_text(text, newline="")
    monkeypatch.syspath_prepend(tmp_path)
    assert Environment.now(1, "cpu").packages.get("some.thing") == recorded


def git(folder: Path, *words: str) -> None:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *settings, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SEGTRAIN_COMMIT", raising=False)
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "pyproject.toml").write_text("")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.mark.quick
@pytest.mark.law("L15")
def test_the_commit_is_that_of_this_code_with_what_was_edited(repository: Path) -> None:
    head = subprocess.check_output(["git", "-C", str(repository), "rev-parse", "HEAD"], text=True).strip()
    assert commit(repository) == head
    (repository / "pyproject.toml").write_text("# edited\n")
    assert commit(repository) == f"{head}-dirty"


@pytest.mark.quick
@pytest.mark.law("L15")
def test_the_commit_is_never_that_of_a_repository_around_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a student unpacked the sources in a project of their own, or git itself calls (a hook)."""
    inside = repository / "vendor" / "segtrain"
    inside.mkdir(parents=True)
    (inside / "pyproject.toml").write_text("")
    assert commit(inside) is None
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert commit(inside) is None
    assert commit(repository / "vendor") is None, "no checkout: a wheel"


@pytest.mark.quick
@pytest.mark.law("L15")
def test_edited_code_has_another_hash(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    (package / "room" / "a.py").write_text("x = 1\n")
    first = code_sha256(package)
    (package / "room" / "a.pyc").write_bytes(b"compiled")
    assert code_sha256(package) == first, "what Python writes is no edit"
    hashes = {first}
    for edit in ("x = 2\n", "x = 1\n\n"):
        (package / "room" / "a.py").write_text(edit)
        hashes.add(code_sha256(package))
    (package / "room" / "a.py").rename(package / "b.py")
    hashes.add(code_sha256(package))
    assert len(hashes) == 4
    assert NOW.code_sha256 == code_sha256(CHECKOUT / "segtrain")


@pytest.mark.quick
@pytest.mark.law("L15")
@pytest.mark.parametrize(
    ("before", "words"),
    [
        (NOW, []),
        (Environment(), []),  # an entry of an earlier version
        (replace(NOW, code_sha256="0", git_commit="abc"), ["segtrain's own code has changed", "commit abc then"]),
        (replace(NOW, packages={"torch": "1.0"}), ["torch was 1.0 at this run's last start"]),
        (replace(NOW, libraries={"cuda": "11.8"}), ["cuda was 11.8"]),
        (replace(NOW, packages={**NOW.packages, "pytest": "1"}), []),
    ],
)
def test_what_changed_since_the_last_start_is_found(before: Environment, words: list[str]) -> None:
    messages = list(changed_since([before, NOW]))
    assert len(messages) == bool(words)
    assert all(word in messages[0] for word in words)
    assert not list(changed_since([NOW]))


@pytest.mark.quick
@pytest.mark.law("L15")
@pytest.mark.parametrize(
    ("before", "words"),
    [
        (ON_GPU, None),
        (replace(ON_GPU, arithmetic="float32"), "arithmetic was float32 at this run's last start and is TF32 conv"),
        (replace(ON_GPU, arithmetic=None), "precision=fp32 may have meant float32 convolutions .*precision=ieee"),
        (replace(NOW, arithmetic=None), None),  # on a CPU it means what it meant
    ],
)
def test_other_arithmetic_than_at_the_last_start_is_found(before: Environment, words: str | None) -> None:
    messages = list(changed_since([before, ON_GPU]))
    assert len(messages) == (words is not None)
    assert words is None or re.search(words, messages[0])
    assert (NOW.arithmetic, ON_GPU.arithmetic) == ("float32", "TF32 convolutions, float32 products")


@pytest.mark.law("L15")
def test_a_resumed_run_says_that_the_code_was_edited(tiny: Config, tmp_path: Path) -> None:
    cfg = replace(tiny, name="edited", train=TrainConfig(epochs=1, global_batch=4))
    run = Run(run_to_end(tmp_path, cfg, 1))
    (first,) = run.starts()
    assert str(first.store).startswith("phantom-32px")
    assert first.device_name == machine.processor()
    entries = json.loads(run.environment_file.read_text())
    run.environment_file.write_text(json.dumps([entries[0] | {"code_sha256": "0"}]))
    run_to_end(tmp_path, replace(cfg, train=replace(cfg.train, epochs=2)), 1)
    assert run.log_file.read_text().count("segtrain's own code has changed since this run's last start") == 1


def test_processor_and_driver_are_read_as_the_kernel_tells_them(tmp_path: Path) -> None:
    info, version = tmp_path / "cpuinfo", tmp_path / "version"
    info.write_text("processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nprocessor\t: 1\nmodel name\t: Other\n")
    assert machine.processor(info) == "Intel(R) Xeon(R)"
    info.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert re.fullmatch(r"\w+", machine.processor(info)), "the architecture"
    assert machine.processor(tmp_path / "none") == machine.processor(info)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    assert machine.nvidia_driver(version) == "550.54.15"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86  Release Build\nGCC 12.2.0\n")
    assert machine.nvidia_driver(version) == "570.86"
    assert machine.nvidia_driver(tmp_path / "none") is None


def test_energy_is_the_power_of_the_gpus_over_the_hours_of_work() -> None:
    """By hand: 4 GPUs at a mean of 300 W for half an hour are 0.6 kWh; a CPU has none."""
    start = Environment(time="2026-01-01T10:00:00+0000", world_size=4, device="cuda:0")
    began_s = start.began_s
    events = [
        replace(train_event(step), time=began_s + seconds, resources={"gpu_watts": watts})
        for step, (seconds, watts) in enumerate(((900, 200.0), (1800, 400.0)), start=1)
    ]
    assert cost([start], events).gpu_kwh == pytest.approx(0.6)
    assert cost([start], events).ended_s == began_s + 1800
    assert cost([replace(start, device="cpu")], events).gpu_kwh is None
    assert cost([start], [replace(event, resources={}) for event in events]).gpu_kwh is None


@pytest.fixture
def report(tmp_path: Path) -> str:
    for name, shift in (("base", 0.0), ("up", 0.1)):
        for seed in (1, 2):
            run = train(tmp_path / "runs" / f"{name}-fold0-seed{seed}", shift)
            start = replace(NOW, packages={"torch": "9.9.9", "monai": "1.5"}, git_commit=f"abc{seed}-dirty")
            run.environment_file.write_text(json.dumps([vars(start)]))
    make([tmp_path / "runs"], tmp_path / "out")
    return (tmp_path / "out" / "report.md").read_text()


@pytest.mark.law("L15")
def test_a_report_says_what_all_runs_share_and_what_variants_differ_in(report: str) -> None:
    section = report.partition("## What was trained")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    shared = dict(row for row in rows if len(row) == 2)
    assert shared["data"] == "phantom"
    assert shared["data fingerprint"] == "fingerprint"
    assert shared["split"] == "5 folds, dealt with seed 42"
    assert shared["seed"] == "1, 2"
    assert shared["patients"] == "0 train, 6 validate"
    assert shared["network"] == "unet, features 32"
    assert shared["optimiser"] == "adam, lr 0.0001"
    assert shared["epochs"] == "3"
    assert shared["ranks, device"] == "2 of A Processor"
    assert shared["commit of segtrain"] == "abc1-dirty, abc2-dirty"
    assert "torch 9.9.9, cuda 12.4" in shared["versions"]
    assert {"hours", "dates"} <= shared.keys()
    assert [row for row in rows if len(row) == 2 and not row[1]] == [], "no empty line"
    assert [row for row in rows if row[0] in ("base", "up")] == [["base", "dice"], ["up", "dice\\_bce"]]
    assert ["variant", "loss"] in rows


def test_settings_are_told_in_words() -> None:
    loss = from_tree({"loss": {"dice": 1, "bce": {"start": 0.0, "end": 0.5}}}, "test").loss
    assert text_of(loss) == "dice: 1; bce: 0 to 0.5"
    assert text_of({"whole": (1, 2), "core": (3,)}) == "whole: 1 2; core: 3"
    assert [text_of(value) for value in (None, 0.10, ("t1", "flair"), "dice")] == ["", "0.1", "t1, flair", "dice"]


@pytest.mark.law("L15")
def test_a_single_run_has_the_table_too_and_a_damaged_split_does_not_take_it(tmp_path: Path) -> None:
    run = train(tmp_path / "alone")
    run.split_file.write_text("{")
    make([run.root], tmp_path / "out", language="zh")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## 训练内容" in text
    (collected,) = collect([run.root])
    assert collected.config is not None
    with (tmp_path / "out" / "results.csv").open() as file:
        assert list(csv.DictReader(file))
