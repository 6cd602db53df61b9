"""The training loop: batches in, steps, an evaluation at each epoch's end, checkpoints, stops that all ranks agree on.

Legend: b batch, c channel, h height, w width.
"""

import hashlib
import json
import logging
import math
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from segtrain.config import Config
from segtrain.data.augment import to_device
from segtrain.data.feed import Batch, Feed
from segtrain.data.order import make_order
from segtrain.data.splits import Split
from segtrain.data.store import Store
from segtrain.engines.optim import lr_at
from segtrain.errors import Diverged, RunError, Stopped
from segtrain.evaluation.evaluate import Evaluation, evaluate
from segtrain.evaluation.metrics import EMPTY_RULE
from segtrain.evaluation.overlays import sheet
from segtrain.run import Run, checkpoint
from segtrain.run.tensorboard import Curves
from segtrain.runtime.stop import Stop, reason
from segtrain.runtime.terminal import Progress
from segtrain.runtime.world import World
from segtrain.training.build import Trained
from segtrain.training.micro_batch import Fit
from segtrain.training.watch import Watch

log = logging.getLogger(__name__)


class Trainer:
    """One training on this rank, from where its run stands. `best_dsc` is known on rank 0 alone."""

    def __init__(
        self, cfg: Config, run: Run, store: Store, split: Split, world: World, stop: Stop, trained: Trained
    ) -> None:
        self.cfg, self.run_dir, self.store, self.split, self.world, self.stop = cfg, run, store, split, world, stop
        self.order = make_order(cfg, store, split)
        self.loss, self.engine = trained.loss, trained.engine
        self.fit = Fit(cfg, run, self.engine, world)
        self.total_steps = cfg.train.epochs * self.order.steps_per_epoch
        self.step = 0
        self.best_dsc: float | None = None
        self.evaluated_here = False  # at the step where the run stands, before it was ended
        self.shown_loss = "..."
        self.losses: list[Tensor] = []  # of the steps since the last record, on the device
        self.recorded = 0, 0.0  # step and moment of the last record
        self.saved_at = time.monotonic()
        self.step_s = 0.0  # the longest step since the last save
        self.turn_s, self.turned_at = 0.0, self.saved_at  # the longest patient of an evaluation, the end of the last
        self.watch = Watch(run, cfg.watch, world.rank, world.size, world.gpu_uuid)
        self._resume()
        self.saver = checkpoint.Saver(run, cfg.checkpoint.keep) if world.is_main else None

    @property
    def epochs_done(self) -> int:
        """Epochs trained to their end."""
        return self.step // self.order.steps_per_epoch

    @property
    def progress(self) -> float:
        """How much of the training is done, 0 to 1."""
        return self.step / self.total_steps

    def run(self) -> None:
        """Train to the end. Raises Diverged or Stopped on all ranks alike. Collective."""
        self.fit.rehearse()
        if self.world.is_main and self.engine.settings:
            self.run_dir.write_engine_settings(self.cfg.engine, self.engine.settings)
        rank, size, pin = self.world.rank, self.world.size, self.world.device.type == "cuda"
        with self.watch, Feed(self.store, self.split.train, self.order, self.cfg.data, rank, size, pin) as feed:
            batches = feed.batches(self.step, self.total_steps)
            if self.step and self.step % self.order.steps_per_epoch == 0:
                self._evaluate(feed)  # the run was ended in it, or after it: the result is the same
            while self.step < self.total_steps:
                with self._progress() as bar:
                    for _ in range(self.order.steps_per_epoch - self.step % self.order.steps_per_epoch):
                        self._train_step(next(batches), feed, bar)
                self._save(feed)
                self._check()
                self._evaluate(feed)
        self._close()

    def _train_step(self, batch: Batch, feed: Feed, bar: Progress) -> None:
        """One step and what may be due after it; at an epoch's end the epoch sees to saving. Collective."""
        started = time.monotonic()
        image, mask = to_device(batch.image_bhwc, batch.mask_bhw, batch.draws, self.world.device, batch.mix)
        lr = lr_at(self.step, self.total_steps, self.cfg.optim)
        self.losses.append(self.fit.step(self.step, image, mask, lr, self.progress))
        self.step += 1
        self.watch.progress(self.step, "training")
        self.step_s = max(self.step_s, time.monotonic() - started)
        bar.advance(self.cfg.train.global_batch, loss=self.shown_loss)
        epoch_ends = self.step % self.order.steps_per_epoch == 0
        if self.step % self.cfg.log_every_steps == 0 or epoch_ends:
            self._record(feed, lr)
        if not epoch_ends:
            self._save_or_stop(feed)

    def _progress(self) -> Progress:
        self.recorded = self.step, time.monotonic()
        title = f"epoch {self.epochs_done + 1}/{self.cfg.train.epochs}"
        left = self.order.steps_per_epoch - self.step % self.order.steps_per_epoch
        return Progress(title, left * self.cfg.train.global_batch, "images", quiet=not self.world.is_main)

    def _resume(self) -> None:
        """Stand where the newest whole checkpoint stands; what was written after it is forgotten. Collective."""
        found = self.world.on_main(lambda: checkpoint.newest(self.run_dir))  # its name
        if found is not None:
            snapshot = checkpoint.read(self.run_dir.checkpoints / found)
            state = snapshot.state
            self._refuse_other_data(state)
            self.engine.restore(snapshot.model, snapshot.optimizer, state["engine"])
            self.step, self.best_dsc = state["step"], state["best_dsc"]
            self.fit.recall(state.get("memory"))
            self.losses = [torch.tensor(value, device=self.world.device) for value in state["losses"]]
            log.info("resuming %s at step %d of %d", self.run_dir.root, self.step, self.total_steps)
        if self.step > self.total_steps:
            raise RunError(
                f"{self.run_dir.root}: trained for {self.epochs_done} epochs and more already, past "
                f"train.epochs={self.cfg.train.epochs}; ask for {self.epochs_done + 1} or more, or another name=..."
            )
        evaluated = self.epochs_done - (self.step > 0 and self.step % self.order.steps_per_epoch == 0)
        self.curves = None
        if self.world.is_main:
            events, self.evaluated_here = self.run_dir.rewind(self.step, evaluated)
            self.curves = Curves(self.run_dir, events)

    def _data_hash(self) -> str:
        """What decides which slice stands at which position, besides the config: patients and lesion areas."""
        return hashlib.sha256(json.dumps([self.split.hash, self.order.areas]).encode()).hexdigest()

    def _refuse_other_data(self, state: Mapping[str, Any]) -> None:
        if state["data"] != self._data_hash():
            raise RunError(
                f"{self.run_dir.root}: this run trained on other slices under the same patient names than are in "
                f"{self.store.label} now; bring them back, or --fresh starts over"
            )

    def _save_or_stop(self, feed: Feed) -> None:
        """Save when it is time to, save and leave when any rank was asked to stop. Collective."""
        margin_s = 2 * (self.step_s + (self.saver.write_s if self.saver else 0.0))
        due = time.monotonic() - self.saved_at > 60 * self.cfg.checkpoint.every_min
        code, save = self.world.largest(self.stop.code(margin_s), due and self.world.is_main)
        if save or code:
            self._save(feed)
        if code:
            self._leave(code)

    def _check(self) -> None:
        """Leave when any rank was asked to stop; what has to be saved is saved. Collective."""
        if code := self.world.largest(self.stop.code(2 * (self.turn_s + (self.saver.write_s if self.saver else 0.0))))[
            0
        ]:
            self._leave(code)

    def _turn(self) -> None:
        """After each patient of an evaluation: remember how long the longest took, leave if asked to. Collective."""
        now = time.monotonic()
        self.turn_s, self.turned_at = max(self.turn_s, now - self.turned_at), now
        self.watch.progress(self.step, "evaluating")
        self._check()

    def _leave(self, code: int) -> None:
        self._close()
        raise Stopped(f"stopped by {reason(code)} at step {self.step}, saved; the same command goes on from there")

    def _close(self) -> None:
        """Wait until the last checkpoint is written, on all ranks: none leaves while one writes. Collective."""
        self.world.on_main(lambda: self.saver.close() if self.saver else None)

    def _save(self, feed: Feed) -> None:
        """Hand a copy of all that the training is to the writer. Collective."""
        self.saved_at, self.step_s = time.monotonic(), 0.0
        losses = self._finite_losses(feed)
        if self._somewhere(not self.engine.finite()):
            raise Diverged(f"a weight is not finite after step {self.step - 1}; {self._remedy}")
        model, moments, extra = self.engine.snapshot()
        if not self.saver:
            return
        state = {
            "step": self.step, "epochs": self.epochs_done, "best_dsc": self.best_dsc, "losses": losses, "engine": extra,
            "world_size": self.world.size, "split": self.split.hash, "data": self._data_hash(),
            "config": asdict(self.cfg), "memory": self.fit.found,
        }  # fmt: skip
        self.saver.save(self.step, checkpoint.Snapshot(model, moments, state))

    def _finite_losses(self, feed: Feed) -> list[float]:
        """The losses since the last record, on the host. Raises Diverged, on all ranks alike."""
        values: list[float] = torch.stack(self.losses).tolist() if self.losses else []
        for step, value in enumerate(values, start=self.step - len(values)):
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss is {value} at step {step}, on patients {', '.join(feed.patients_at(step))}; "
                    + self._remedy
                )
        return values

    @property
    def _remedy(self) -> str:
        return f"try a smaller optim.lr (now {self.cfg.optim.lr}), optim.clip_norm=1 or precision=fp32"

    def _somewhere(self, flag: bool) -> bool:
        """Whether the flag is up on any rank. Collective."""
        return self.world.largest(flag)[0] > 0

    def _record(self, feed: Feed, lr: float) -> None:
        """Write down the mean loss since the last record."""
        values = self._finite_losses(feed)
        loss, now = sum(values) / len(values), time.monotonic()
        rate = (self.step - self.recorded[0]) * self.cfg.train.global_batch / (now - self.recorded[1])
        self.losses, self.recorded, self.shown_loss = [], (self.step, now), f"{loss:.4f}"
        if self.curves:
            use = self.watch.sample()
            self._tell("train", loss=loss, lr=lr, images_per_s=rate, memory_gib=self._memory_gib(), resources=use)

    def _evaluate(self, feed: Feed) -> None:
        """Score the validation patients if it is time to; rank 0 writes it down and marks the best. Collective."""
        epoch = self.epochs_done
        again, self.evaluated_here = self._somewhere(self.evaluated_here), False
        if epoch % self.cfg.evaluate.every_epochs and self.step < self.total_steps and not again:
            return
        patients = self.split.validation
        self.turned_at = time.monotonic()
        with self.engine.averaged():
            result = evaluate(
                self.engine.logits, self.loss, self.store, patients, self.world, self.cfg.evaluate, self._turn,
                self.progress, self.cfg.data.neighbours,
            )  # fmt: skip
        if self._somewhere(result is not None and not math.isfinite(result.loss)):
            raise Diverged(f"the validation loss is not finite after epoch {epoch}; {self._remedy}")
        if self._somewhere(bool(self.saver and self.saver.failed())):
            self._save(feed)
        if result is not None and self.saver:
            best = self.best_dsc is None or result.dsc.mean > self.best_dsc
            self._write_down(epoch, result, best)
            if best and self.saver.mark_best(self.step):
                self.best_dsc = result.dsc.mean

    def _write_down(self, epoch: int, result: Evaluation, best: bool) -> None:
        dsc = result.dsc
        pictures = [(f"{s.patient}  DSC {s.scored.dsc:.3f}", s.picture) for s in result.scores if s.picture is not None]
        if pictures:
            self.run_dir.write_picture(epoch, sheet(pictures))
        self.run_dir.write_scores(epoch, [score.row() for score in result.scores])
        self._tell(
            "evaluation", epoch=epoch, val_loss=result.loss, val_dsc=dsc.mean, median=dsc.median, n=dsc.n,
            ci_low=_or_none(dsc.ci_low), ci_high=_or_none(dsc.ci_high), best=best, empty_masks=EMPTY_RULE,
            per_patient=str(self.run_dir.validation_table(epoch).relative_to(self.run_dir.root)),
        )  # fmt: skip
        log.info("epoch %d/%d  loss %s  val_loss %.4f  val_dsc %s%s", epoch, self.cfg.train.epochs, self.shown_loss,
                 result.loss, dsc, "  best" if best else "")  # fmt: skip

    def _tell(self, event: str, **values: Any) -> None:
        if self.curves:
            self.curves.show(self.run_dir.record(event, self.step, **values))

    def _memory_gib(self) -> float:
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
