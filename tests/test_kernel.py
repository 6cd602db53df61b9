"""A training in the kernel of a notebook: shown, interrupted once and twice, gone on with; errors in one line."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import segtrain
from segtrain.config import Config, to_yaml

jupyter = pytest.importorskip("jupyter_client.manager", reason="jupyter_client is not installed: no kernel to try")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: no kernel to try")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TIMEOUT_S = 180.0
LOSS = """
import time
from torch import nn

PAUSE_S = 0.05

class Slow(nn.Module):
    def forward(self, logits, target):
        if logits.requires_grad:
            time.sleep(PAUSE_S)
        return nn.functional.binary_cross_entropy_with_logits(logits, target)
"""
# Two interrupts may come before the next step: the second would then meet an idle kernel.
SLOW_SAVE = """
from segtrain.training.loop import Loop
leave = Loop._leave
Loop._leave = lambda loop, reason: (time.sleep(60), leave(loop, reason))
"""


@dataclass
class Cell:
    """What a cell has shown, and how it ended."""

    output: str = ""
    error: list[str] = field(default_factory=list)  # name, then the lines of the traceback


class Notebook:
    def __init__(self, folder: Path) -> None:
        self.manager, self.client = jupyter.start_new_kernel(cwd=str(folder))

    def run(self, code: str, watch: Callable[[Cell], object] = lambda _: None) -> Cell:
        """Run a cell to its end; `watch` is called again and again meanwhile."""
        cell, number = Cell(), self.client.execute(code)
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            watch(cell)
            if not self.client.iopub_channel.msg_ready():
                time.sleep(0.05)
                continue
            message: dict[str, Any] = self.client.get_iopub_msg(timeout=5)
            content, kind = message["content"], message["msg_type"]
            if message["parent_header"].get("msg_id") != number:
                continue
            if kind == "stream":
                cell.output += content["text"]
            elif kind == "error":
                cell.error = [content["ename"], *content["traceback"]]
            elif kind == "status" and content["execution_state"] == "idle":
                return cell
        raise AssertionError(f"the cell has not ended: {cell}")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path)
    yield notebook
    notebook.close()


@pytest.mark.law("L8")
def test_a_training_in_a_notebook_is_shown_interrupted_and_gone_on_with(
    fragile: Config, notebook: Notebook, tmp_path: Path
) -> None:
    (tmp_path / "given.yaml").write_text(to_yaml(fragile))
    train = "run = segtrain.train('given.yaml', 'log_every_steps=1', 'train.epochs=2', name='mine', loss=Slow)"
    events = tmp_path / "runs" / "mine" / "metrics.jsonl"
    assert notebook.run(f"import segtrain\n{LOSS}") == Cell()

    def interrupt_when(count: int, times: list[float]) -> Callable[[Cell], None]:
        """Interrupt once more than that many lines are recorded, and again a second later for each further time."""

        def watch(cell: Cell) -> None:
            lines = events.read_text().count("\n") if events.exists() else 0
            if times and lines > count and time.monotonic() > times[0]:
                notebook.manager.interrupt_kernel()
                times.pop(0)
                times[:] = [time.monotonic() + 1.0 for _ in times]

        return watch

    cell = notebook.run(train, interrupt_when(0, [0.0]))
    assert cell.error == []
    assert "on 1 cpu rank(s)" in cell.output
    assert "stopped by SIGINT at step" in cell.output
    assert notebook.run("print(run.state)").output == "stopped\n"

    notebook.run(SLOW_SAVE)
    cell = notebook.run(train, interrupt_when(events.read_text().count("\n"), [0.0, 0.0]))
    assert cell.error[:1] == ["KeyboardInterrupt"], cell

    cell = notebook.run(f"Loop._leave = leave\n{train}\nprint(run)")
    assert cell.error == []
    assert "resuming runs/mine" in cell.output
    assert "finished, best mean DSC" in cell.output

    cell = notebook.run("segtrain.train('given.yaml', nproc=3)")
    assert [len(cell.error), cell.error[0]] == [2, "ConfigError"]
    assert cell.error[1].startswith("ConfigError: nproc=3: train.global_batch=8 cannot be shared")

    run = segtrain.train(tmp_path / "runs" / "mine" / "config.yaml", runs_dir=str(tmp_path / "runs"))
    assert run.state == "finished", "elsewhere the loss of the cell is found beside the config"
    assert (run.path / "code" / "loss" / "part_loss.py").exists()
