"""The training loop: batches in, steps, an evaluation at each epoch's end, checkpoints, stops that all ranks agree on.

Legend: b batch, c channel, h height, w width.
"""

import math
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor

from segtrain.config import MaskLayout
from segtrain.data.augment.batch import to_device
from segtrain.data.feed import Batch, Feed
from segtrain.data.neighbours import Neighbours
from segtrain.errors import DataError, Diverged, StopReason
from segtrain.evaluation.evaluate import evaluate
from segtrain.evaluation.predictor import Predictor
from segtrain.run import checkpoint
from segtrain.runtime.allocator import begin_first_step, end_first_step
from segtrain.training.clock import Clock, EventClock
from segtrain.training.in_step import InStep, stopped
from segtrain.training.log import TrainingLog
from segtrain.training.micro_batch import MemoryGuard
from segtrain.training.resume import Position
from segtrain.training.start import Start
from segtrain.training.watch import Watch


class Loop:
    """One training on this rank, from where its run stands. `best_dsc` is known on rank 0 alone."""

    def __init__(self, start: Start, position: Position, memory: MemoryGuard, saver: checkpoint.Saver | None) -> None:
        self.start = start
        self.memory = memory
        self.saver = saver  # on rank 0
        clock = EventClock(position.recorded_s)
        outbox = saver.outbox if saver else None
        self.log = TrainingLog(start, position.losses, position.curves, outbox, clock, position.reached)
        self.clock = Clock(start.cfg.checkpoint.every_min)
        self.watch = Watch(start.run, start.cfg.watch, start.world.rank, start.world.size, start.world.gpu_uuid)
        self.step = position.step
        self.best_dsc = position.best_dsc
        self._evaluate_again = position.evaluated_here

    @property
    def epochs_done(self) -> int:
        """Epochs trained to their end."""
        return self.step // self.start.order.steps_per_epoch

    def run(self) -> None:
        """Train to the end. Raises Diverged or Stopped on all ranks alike. Collective."""
        cfg, world = self.start.cfg, self.start.world
        total, per_epoch = self.start.total_steps, self.start.order.steps_per_epoch
        self.memory.rehearse()
        if self.saver and (settings := self.start.engine.settings):
            write = partial(self.start.run.write_engine_settings, cfg.engine, settings)
            self.saver.outbox.put("the engine's settings", write)
        with self.watch, self._feed() as feed:
            self._load(feed)
            if self.step and self.step % per_epoch == 0:
                self._evaluate()  # the run ended in this evaluation, or after it: the result is the same
            self.log.begin_epoch(self.step)
            begin_first_step()
            for step, batch in enumerate(feed.batches(self.step, total), start=self.step):
                self.clock.begin()
                image, mask = _augmented(batch, world.device, self.start.store.layout)
                lr = self.start.schedule(step)
                self.log.add(self.memory.step(step, image, mask, lr, step / total))
                end_first_step()
                self.step = step + 1
                self.clock.step_is_done()
                self.watch.progress(self.step, "training")
                epoch_ends = self.step % per_epoch == 0
                if epoch_ends or self.step % cfg.log_every_steps == 0:
                    self.log.record(self.step, lr, self.watch)  # the only wait for the device
                reason, save_is_due = self._agree(evaluating=epoch_ends)
                if epoch_ends or save_is_due or reason:
                    self._save()
                if reason:
                    self._leave(reason)
                if epoch_ends:
                    self.log.end_epoch()
                    self._evaluate()
                    self.log.begin_epoch(self.step)
        self._wait_for_all_writes()

    def _feed(self) -> Feed:
        start, world = self.start, self.start.world
        own = start.augmentation.recipe if start.augmentation else None
        return Feed(
            start.store, start.split.train, start.order, start.cfg.data, world.rank, world.size, world.device, own
        )

    def _load(self, feed: Feed) -> None:
        """Have the slices on the device where they fit, which each rank finds out by itself. Collective.

        Raises Stopped, or DataError, on all ranks alike: nothing is lost, since nothing was trained since the start.
        """
        in_step = InStep(self.start.stop, self.start.world, f"before step {self.step}, while slices were loaded")

        def check() -> None:
            self.watch.progress(self.step, "loading")
            in_step.check()

        failure: DataError | None = None
        if self.memory.holds_slices:
            try:
                feed.load(check)
            except DataError as error:
                failure = error
        in_step.finish(failure)
        self.memory.release = feed.release

    def _agree(self, evaluating: bool) -> tuple[StopReason | None, bool]:
        """Why any rank has to stop before its next step (or patient, when `evaluating`), and whether to save.

        Collective.
        """
        margin_s = self.clock.margin_s(self.saver.write_s if self.saver else 0.0, evaluating)
        save_is_due = self.start.world.is_main and self.clock.save_is_due()
        return self.start.world.agree(self.start.stop.reason(margin_s), save_is_due)

    def _leave(self, reason: StopReason) -> None:
        self._wait_for_all_writes()
        raise stopped(reason, f"at step {self.step}, saved")

    def _wait_for_all_writes(self) -> None:
        """Wait until the last checkpoint and all else is written, on all ranks: none leaves before. Collective."""
        self.start.world.on_main(lambda: self.saver.close() if self.saver else None)

    def _save(self) -> None:
        """Hand a copy of all that the training is to the writer. Raises Diverged on all ranks alike. Collective."""
        self.clock.saved()
        start, engine = self.start, self.start.engine
        losses = self.log.losses(self.step)
        if start.world.any(not engine.finite()):
            raise Diverged(f"a weight is not finite after step {self.step - 1}; {start.remedy}")
        model, moments, extra = engine.snapshot()
        if not self.saver:
            return
        state = {
            "step": self.step,
            "epochs": self.epochs_done,
            "best_dsc": self.best_dsc,
            "losses": losses,
            "engine": extra,
            "world_size": start.world.size,
            "split": start.split.hash,
            "data": start.data_hash,
            "config": asdict(start.cfg),
            "memory": self.memory.state,
        }
        self.saver.save(self.step, checkpoint.Snapshot(model, moments, state))

    def _evaluate(self) -> None:
        """Score the validation patients if it is time to; rank 0 writes it down and marks the best. Collective."""
        start, cfg, epoch = self.start, self.start.cfg, self.epochs_done
        again, self._evaluate_again = start.world.any(self._evaluate_again), False
        if epoch % cfg.evaluate.every_epochs and self.step < start.total_steps and not again:
            return
        self.clock.begin()
        predictor = Predictor(
            self.memory.logits,
            cfg.evaluate,
            start.world.device,
            Neighbours.of(cfg.data),
            start.store.layout,
            training=True,
        )
        with start.engine.averaged():
            result = evaluate(
                predictor,
                start.loss,
                start.store,
                start.split.validation,
                start.world,
                check=self._after_patient,
                progress=self.step / start.total_steps,
                people=start.split.people,
            )
        if start.world.any(result is not None and not math.isfinite(result.loss)):
            raise Diverged(f"the validation loss is not finite after epoch {epoch}; {start.remedy}")
        if result is not None and self.saver:
            best = self.best_dsc is None or result.dsc.mean > self.best_dsc
            self.log.evaluation(self.step, epoch, result, best)
            if best:
                self.saver.mark_best(self.step)
                self.best_dsc = result.dsc.mean

    def _after_patient(self) -> None:
        """Leave where any rank was asked to stop; the epoch is saved already. Collective."""
        self.clock.patient_is_done()
        self.watch.progress(self.step, "evaluating")
        reason, _ = self._agree(evaluating=True)
        if reason:
            self._leave(reason)

    def close(self) -> None:
        """Take the bar away."""
        self.log.end_epoch()


def _augmented(batch: Batch, device: torch.device, layout: MaskLayout) -> tuple[Tensor, Tensor]:
    """Image [b, c, h, w] and mask [b, p, h, w] on the device, in one batched call."""
    return to_device(batch.image_bhwc, batch.mask_bhw, batch.draws, device, batch.mix, layout)
