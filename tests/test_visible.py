"""Names and messages from outside on a terminal: what would steer it is shown, wherever lines leave."""

import ast
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_architecture import ROOT

from jobs import logs
from jobs.outputs import Output
from jobs.status_table import status_table
from segtrain.errors import RunError
from segtrain.runtime import process, terminal
from segtrain.runtime.visible import Formatter, in_lines, in_one_line

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u2066\r\nfake: finished\x00\x7f"
SHOWN = "a\\x1b[2J\\x1b]0;owned\\x07\\x9b31m\\u202egnp.exe\\u2066\\r\\nfake: finished\\x00\\x7f"
# Where lines leave: answers for other programs, to the letter, and what is made visible beforehand.
WRITERS = {
    "segtrain/runtime/terminal.py", "segtrain/runtime/process.py", "segtrain/doctor/trial.py",
    "segtrain/commands/doctor.py", "jobs/batch.py", "jobs/resubmit.py", "jobs/grid.py", "jobs/submit.py",
    "jobs/logs.py",
}  # fmt: skip


def is_harmless(text: str) -> bool:
    return not set(text) & (set(HOSTILE) - set("\n") - set(map(chr, range(32, 127))))


def test_control_characters_are_written_as_python_writes_them() -> None:
    assert in_one_line(HOSTILE) == SHOWN
    assert in_lines("a\tb\nc\x1b") == "a\tb\nc\\x1b"
    for harmless in ("ünï字", "a\u3000b", "עברית", "\\x1b", "caf\udce9", "👩\u200d⚕"):
        assert in_one_line(harmless) == in_lines(harmless) == harmless


def test_a_line_of_the_log_holds_one_line_of_each_argument(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    process.start_logging(tmp_path / "log.txt")
    log = logging.getLogger("segtrain.test")
    log.info("%s: %s %d", Path(HOSTILE), OSError(HOSTILE), 3)
    log.info("%(name)s ends", {"name": HOSTILE})
    log.info(f"two\nlines {HOSTILE[:5]}")
    process.start_logging()
    errors = capsys.readouterr().err
    assert errors == f"{SHOWN}: {SHOWN} 3\n{SHOWN} ends\ntwo\nlines a\\x1b[2J\n"
    assert is_harmless((tmp_path / "log.txt").read_text())


def test_numbers_of_all_kinds_keep_their_formats() -> None:
    import numpy as np

    record = logging.LogRecord(
        "x", logging.INFO, "", 1, "%d %.2f %s %r", (np.int64(3), np.float32(0.5), None, "b"), None
    )
    assert Formatter("%(message)s").format(record) == "3 0.50 None 'b'"
    assert record.args == (3, 0.5, None, "b")


def test_errors_tables_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def command(argv: object) -> int:
        raise RunError(HOSTILE)

    process.run_command(command, [])
    terminal.show(HOSTILE)
    terminal.show_text(HOSTILE)
    terminal.show_table(HOSTILE, [(HOSTILE, HOSTILE)], (HOSTILE, "b"))
    captured = capsys.readouterr()
    assert captured.err == f"segtrain: error: {SHOWN}\n"
    assert captured.out.startswith(f"{SHOWN}\n")
    assert is_harmless(captured.out)


def test_status_shows_what_runs_and_slurm_say() -> None:
    row = dict.fromkeys(
        ("run", "why", "job", "state", "best_parts", "last_parts", "user", "host", "scheduler"), HOSTILE
    )
    numbers = dict.fromkeys(("best_dsc", "last_dsc", "eta_s", "trouble", "restarts", "epoch", "epochs", "step"))
    of_machine = dict.fromkeys(
        ("images_per_s", "memory_gib", "cpu_percent", "rss_gib", "machine_memory_percent", "disk_read_mib_s",
         "disk_write_mib_s", "gpu_percent", "gpu_memory_gib", "gpu_watts", "gpu_celsius"), 1.0
    )  # fmt: skip
    row |= {"scheduler": f"SLURM does not answer: {HOSTILE}"}
    output = io.StringIO()
    Console(file=output, width=300).print(status_table([{**row, **numbers, **of_machine}], HOSTILE))
    assert is_harmless(output.getvalue())
    assert "\\x1b[2J" in output.getvalue()


def test_logs_show_the_output_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.txt").write_bytes(f"10%\r20%\n{HOSTILE}\n".encode())
    logs._Tail(Output(tmp_path / "log.txt")).show(to_the_end=True)
    output = capsys.readouterr().out
    assert output.startswith("10%\n20%\na\\x1b[2J")
    assert is_harmless(output)


def test_a_traceback_is_shown_too(tmp_path: Path) -> None:
    code = "from segtrain.runtime import process\nprocess.main(lambda argv: int(argv[0]), ['\\x1b[2J\\u202e'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert (done.returncode, "Traceback" in done.stderr, is_harmless(done.stderr)) == (1, True, True)


def test_json_for_programs_is_escaped_by_itself() -> None:
    assert is_harmless(json.dumps(HOSTILE))


def test_lines_leave_in_one_place() -> None:
    """A print elsewhere would send a name as it is; ruff's T20 does not see those to standard error."""
    for path in [*(ROOT / "segtrain").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = {"print", "sys.stdout.write", "sys.stderr.write"} & set(calls)
        assert not prints or path.relative_to(ROOT).as_posix() in WRITERS, f"{path}: use terminal.show"
        formatters = {"logging.Formatter", "logging.basicConfig"} & set(calls)
        assert not formatters or path.name == "node.py", f"{path}: use visible.Formatter"
