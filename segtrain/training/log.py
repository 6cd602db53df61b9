"""What a training says: losses, events, TensorBoard, pictures, tables, the progress bar."""

import logging
import math
import resource
import time
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from segtrain.errors import Diverged
from segtrain.evaluation.evaluate import Evaluation, PatientScore
from segtrain.evaluation.metrics import EMPTY_RULE, Summary
from segtrain.evaluation.overlays import Legend, Picture, legend_of, sheet
from segtrain.run.events import EvaluationEvent, Event, TrainEvent, parts_text, to_line
from segtrain.run.live import facts_of
from segtrain.run.milestones import Milestones
from segtrain.run.tensorboard import Curves
from segtrain.runtime.outbox import Appended, Outbox
from segtrain.runtime.terminal import Progress
from segtrain.training.clock import EventClock
from segtrain.training.start import Start
from segtrain.training.watch import Watch

log = logging.getLogger(__name__)


class TrainingLog:
    """The record of one training. Losses stay on the device until `record` or `losses` asks for them.

    `curves` and `outbox` are there on rank 0, which alone writes; the others only check that their losses are finite.
    """

    def __init__(
        self,
        start: Start,
        losses: Sequence[float],
        curves: Curves | None = None,
        outbox: Outbox | None = None,
        clock: EventClock | None = None,
        reached: Milestones | None = None,
    ) -> None:
        self.start = start
        self.curves = curves
        self.outbox = outbox
        self._clock = clock or EventClock()
        self._metrics = Appended(start.run.metrics) if outbox else None
        self._losses = [torch.tensor(loss, device=start.world.device) for loss in losses]  # since the last record
        self._reached = reached or Milestones()
        self._shown_loss = "..."
        self._recorded_step = 0
        self._recorded_at = 0.0
        self._bar: Progress | None = None

    def begin_epoch(self, step: int) -> None:
        """Show a new bar, unless the run is at its end; the speed is measured from here on, without the evaluation."""
        if step == self.start.total_steps:
            return
        self._recorded_step = step
        self._recorded_at = time.monotonic()
        cfg, steps_per_epoch = self.start.cfg.train, self.start.order.steps_per_epoch
        left = (steps_per_epoch - step % steps_per_epoch) * cfg.global_batch
        title = f"epoch {step // steps_per_epoch + 1}/{cfg.epochs}"
        self._bar = Progress(title, left, "images", quiet=not self.start.world.is_main)
        self._bar.__enter__()

    def end_epoch(self) -> None:
        """Take the bar away, at an epoch's end or at an error."""
        if self._bar:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def add(self, loss: Tensor) -> None:
        """Remember a step's loss, without waiting for the device."""
        self._losses.append(loss)
        if self._bar:
            facts = facts_of(self._reached, self.start.cfg.train.epochs)
            notes = {"loss": self._shown_loss, "DSC": facts.score, "run ETA": facts.left}
            self._bar.advance(self.start.cfg.train.global_batch, **{name: text for name, text in notes.items() if text})

    def losses(self, step: int) -> list[float]:
        """The losses since the last record, up to `step`, on the host. Raises Diverged, on all ranks alike."""
        values: list[float] = torch.stack(self._losses).tolist() if self._losses else []
        for of_step, value in enumerate(values, start=step - len(values)):
            if not math.isfinite(value):
                patients = ", ".join(self.start.patients_at(of_step))
                raise Diverged(f"the loss is {value} at step {of_step}, on patients {patients}; {self.start.remedy}")
        return values

    def record(self, step: int, lr: float, watch: Watch) -> None:
        """Write down the mean loss since the last record. Waits for the device; raises Diverged on all ranks alike."""
        values = self.losses(step)
        loss = sum(values) / len(values)
        now = time.monotonic()
        images = (step - self._recorded_step) * self.start.cfg.train.global_batch
        images_per_s = images / (now - self._recorded_at)
        self._losses = []
        self._recorded_step = step
        self._recorded_at = now
        self._shown_loss = f"{loss:.4f}"
        if self.outbox:
            self._write(
                TrainEvent(
                    step=step,
                    time=self._clock.now_s(),
                    loss=loss,
                    lr=lr,
                    images_per_s=images_per_s,
                    memory_gib=_memory_gib(self.start.world.device),
                    resources=watch.sample(),
                )
            )

    def evaluation(self, step: int, epoch: int, result: Evaluation, best: bool) -> None:
        """Write down an epoch's evaluation: picture, table, event, curves, a line. On rank 0."""
        assert self.outbox, "it is on rank 0"
        run, dsc = self.start.run, result.dsc
        several = len(result.regions) > 1
        if pictures := [picture for score in result.scores for picture in _pictures(score)]:
            self._write_picture(epoch, pictures, legend_of(tuple(result.regions)))
        rows = [row for score in result.scores for row in score.rows()]
        self.outbox.put(f"the table of epoch {epoch}", partial(run.write_scores, epoch, rows))
        self._write(
            EvaluationEvent(
                step=step,
                time=self._clock.now_s(),
                epoch=epoch,
                val_loss=result.loss,
                val_dsc=dsc.mean,
                median=dsc.median,
                n=len(result.scores),
                ci_low=_or_none(dsc.ci_low),
                ci_high=_or_none(dsc.ci_high),
                best=best,
                empty_masks=EMPTY_RULE,
                per_patient=str(run.validation_table(epoch).relative_to(run.root)),
                regions={name: _numbers(summary) for name, summary in result.regions.items()} if several else {},
                people=result.people,
            )
        )
        log.info(
            "epoch %d/%d  loss %s  val_loss %.4f  val_dsc %s%s%s",
            epoch,
            self.start.cfg.train.epochs,
            self._shown_loss,
            result.loss,
            dsc,
            _beside(result),
            "  best" if best else "",
        )

    def _write_picture(self, epoch: int, pictures: Sequence[tuple[str, Picture]], legend: Legend) -> None:
        assert self.outbox, "it is on rank 0"

        def write() -> None:  # the sheet is put together there too, while the next epoch trains
            self.start.run.write_picture(epoch, sheet(pictures, legend=legend))

        size = sum(picture.nbytes for _, picture in pictures)
        if not self.outbox.put(f"the picture of epoch {epoch}", write, size=size):
            log.warning("the picture of epoch %d is left out: too much waits to be written", epoch)

    def _write(self, event: Event) -> None:
        assert self.outbox, "it is on rank 0"
        assert self._metrics, "it is there where the outbox is"
        self._reached = self._reached.after(event)
        self.outbox.put("the last events", partial(self._metrics.append, to_line(event).encode()))
        if self.curves:
            self.outbox.put("the last curves", partial(self.curves.show, event))


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _pictures(score: PatientScore) -> Iterator[tuple[str, Picture]]:
    """A patient's pictures with their titles."""
    if score.picture is not None:
        yield f"{_title(score)}\n{score.lesions}", score.picture
    if score.worst_lesion:
        words, picture = score.worst_lesion
        yield f"{score.patient}\n{words}", picture


def _title(score: PatientScore) -> str:
    """Above a patient's picture."""
    parts = {name: region.scored.dsc for name, region in score.regions.items()}
    return f"{score.patient}  DSC {score.dsc:.3f}" + (f" ({parts_text(parts, 3)})" if len(parts) > 1 else "")


def _beside(result: Evaluation) -> str:
    """The regions' means behind a mean over several, and the number of patients where some are of one person."""
    parts = {name: summary.mean for name, summary in result.regions.items()}
    text = f"  ({parts_text(parts)})" if len(parts) > 1 else ""
    return text + (f"  {result.people} people, {len(result.scores)} patients" if result.people else "")


def _numbers(summary: Summary) -> dict[str, float | None]:
    """A region's mean over people in an event."""
    return {
        "dsc": summary.mean,
        "median": summary.median,
        "ci_low": _or_none(summary.ci_low),
        "ci_high": _or_none(summary.ci_high),
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
