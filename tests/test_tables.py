"""What the terminal's tables show is what was said: brackets in the words of a failure are no markup."""

import re
from pathlib import Path
from typing import Any

import pytest
from queues import StandIns, command, write
from rich.console import Console

from jobs import ablate
from jobs.queue.diagnosis import Diagnosis
from jobs.status_table import NUMBERS, status_table
from segtrain.run.index import OF_SEVERAL
from segtrain.runtime.terminal import show_table

ROW: dict[str, Any] = dict.fromkeys([*NUMBERS, *OF_SEVERAL, "best_dsc", "last_dsc", "eta_s", "trouble", "job", "why"])
ROW |= {"state": "failed", "restarts": 0, "epoch": 1, "epochs": 2, "step": 3}
WORDS = ("[/pytorch/x.cc:81] Timed out", "[enforce fail at alloc_cpu.cpp:117]", "[bold]")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


@pytest.mark.law("L12")
@pytest.mark.parametrize("words", WORDS)
def test_the_queue_s_table_shows_the_words_of_a_failure(
    tmp_path: Path, stand_ins: StandIns, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.queue.child.diagnose", lambda *_: Diagnosis("failed", words))
    monkeypatch.setattr("jobs.queue.machine.scarce", lambda *_: None)
    stand_ins.words["a"] = ["1"]
    assert command(write(tmp_path, ["a"], retries=0)) == 1
    assert words in capsys.readouterr().out
    monkeypatch.setattr("jobs.queue.machine.scarce", lambda *_: words)
    assert command(write(tmp_path, ["b"])) == 75
    assert f"night: {words}" in capsys.readouterr().out, "the title says why it stopped"


@pytest.mark.parametrize("words", WORDS)
def test_other_tables_show_names_and_values_as_they_are(
    tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table(f"of {words}", [(f"patient {words}", f"value {words}")], ("", f"column {words}"))
    said = capsys.readouterr().out
    for what in ("of", "patient", "value", "column"):
        assert f"{what} {words}" in said
    Console().print(status_table([ROW | {"run": f"run {words}", "job": "[/j]", "why": words}]))
    said = capsys.readouterr().out
    assert f"run {words}" in said
    assert "[/j]" in said


def test_a_path_longer_than_its_column_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(f"folder_{number}" for number in range(40))
    show_table("", [("data", f"{path}: no such folder")])
    assert path in "".join(re.sub("[│┃]", "", capsys.readouterr().out).split())
    Console(width=80).print(status_table([ROW | {"run": path}]))
    first_column = [line.split("│")[1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert "".join("".join(first_column).split()) == path


@pytest.mark.parametrize("words", WORDS)
def test_an_ablation_s_list_shows_its_settings_as_they_are(
    tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)  # else 160 columns
    (tmp_path / "base.yaml").write_text("device: cpu\n")
    (tmp_path / "spec.yaml").write_text(
        f"name: s\nbase: base.yaml\nvariants: {{a: {{}}, b: {{data.store: '/d/{words}'}}}}\n"
    )
    assert ablate.command([str(tmp_path / "spec.yaml"), f"runs_dir=/r/{words}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"data.store=/d/{words}" in said
    assert f"in /r/{words}/s" in said
