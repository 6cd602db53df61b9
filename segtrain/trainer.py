"""The training loop: batches in, steps, an evaluation at each epoch's end, the best weights kept.

Legend: b batch, c channel, h height, w width.
"""

import logging
import math
import resource
import sys
import time
from dataclasses import asdict

import torch
from torch import Tensor

from segtrain import checkpoint
from segtrain.config import Config
from segtrain.data.augment import to_device
from segtrain.data.feed import Feed
from segtrain.data.sampler import make_order
from segtrain.data.splits import Split
from segtrain.data.store import Store
from segtrain.display import Progress
from segtrain.dist import World
from segtrain.engines import make_engine
from segtrain.errors import Diverged
from segtrain.evaluate import Evaluation, evaluate
from segtrain.losses import make_loss
from segtrain.metrics import EMPTY_RULE
from segtrain.models import make_model
from segtrain.optim import lr_at
from segtrain.pictures import sheet
from segtrain.run import Curves, Run

log = logging.getLogger(__name__)


class Trainer:
    """One training on this rank. `run` returns the best validation mean DSC on rank 0, None on the others."""

    def __init__(self, cfg: Config, run: Run, store: Store, split: Split, world: World) -> None:
        self.cfg, self.run_dir, self.store, self.split, self.world = cfg, run, store, split, world
        self.order = make_order(cfg, store, split)
        self.loss = make_loss(cfg.loss)
        self.engine = make_engine(cfg, make_model(cfg.model, cfg.seed), self.loss, world)
        self.total_steps = cfg.train.epochs * self.order.steps_per_epoch
        self.step = 0
        self.best_dsc: float | None = None
        self.shown_loss = "..."
        self.losses: list[Tensor] = []  # of the steps since the last record, on the device
        self.recorded_at = time.perf_counter()
        self.curves = Curves(run.tensorboard) if world.is_main else None

    def run(self) -> float | None:
        """Train to the end. Raises Diverged on all ranks when the loss is not finite. Collective."""
        cfg, world, order = self.cfg, self.world, self.order
        feed = Feed(
            self.store,
            self.split.train,
            order,
            cfg.data.augment,
            world.rank,
            world.size,
            pin=world.device.type == "cuda",
        )
        with feed:
            batches = feed.batches(self.step, self.total_steps)
            for epoch in range(cfg.train.epochs):
                title = f"epoch {epoch + 1}/{cfg.train.epochs}"
                with Progress(
                    title, total=order.steps_per_epoch * cfg.train.global_batch, unit="images", quiet=not world.is_main
                ) as bar:
                    self.recorded_at = time.perf_counter()
                    for _ in range(order.steps_per_epoch):
                        batch = next(batches)
                        image, mask = to_device(batch.image_bhwc, batch.mask_bhw, batch.affines, world.device)
                        lr = lr_at(self.step, self.total_steps, cfg.optim)
                        self.losses.append(self.engine.step(image, mask, lr))
                        self.step += 1
                        if self.step % cfg.log_every_steps == 0:
                            self._record(feed, lr)
                        bar.advance(cfg.train.global_batch, loss=self.shown_loss)
                self._record(feed, lr)
                if (epoch + 1) % cfg.evaluate.every_epochs == 0 or epoch + 1 == cfg.train.epochs:
                    self._evaluate(epoch + 1)
        if self.curves:
            self.curves.close()
        return self.best_dsc

    def _record(self, feed: Feed, lr: float) -> None:
        """Bring the losses since the last record to the host: check them, then write them down."""
        if not self.losses:
            return
        values = torch.stack(self.losses).tolist()
        first_step = self.step - len(values)
        for step, value in enumerate(values, start=first_step):
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss is {value} at step {step}, on patients {', '.join(feed.patients_at(step))}; "
                    f"try a smaller optim.lr (now {self.cfg.optim.lr}), optim.clip_norm=1 or precision=fp32"
                )
        loss = sum(values) / len(values)
        elapsed_s = time.perf_counter() - self.recorded_at
        rate = len(values) * self.cfg.train.global_batch / elapsed_s
        self.losses.clear()
        self.recorded_at = time.perf_counter()
        self.shown_loss = f"{loss:.4f}"
        if self.curves:
            memory_gib = self._memory_gib()
            self.run_dir.record("train", self.step, loss=loss, lr=lr, images_per_s=rate, memory_gib=memory_gib)
            self.curves.add(self.step, loss=loss, lr=lr, images_per_s=rate, memory_gib=memory_gib)

    def _evaluate(self, epoch: int) -> None:
        """Score the validation patients; rank 0 writes everything down and keeps the best weights. Collective."""
        result = evaluate(
            self.engine.logits, self.loss, self.store, self.split.validation, self.world, self.cfg.evaluate
        )
        if result is None or self.curves is None:
            return
        dsc = result.dsc
        best = self.best_dsc is None or dsc.mean > self.best_dsc
        self.run_dir.write_scores(epoch, [score.row() for score in result.scores])
        self.run_dir.record(
            "evaluation", self.step, epoch=epoch, val_loss=result.loss, val_dsc=dsc.mean, median=dsc.median, n=dsc.n,
            ci_low=_or_none(dsc.ci_low), ci_high=_or_none(dsc.ci_high), best=best, empty_masks=EMPTY_RULE,
            per_patient=str(self.run_dir.validation_table(epoch).relative_to(self.run_dir.root)),
        )  # fmt: skip
        self.curves.add(self.step, val_loss=result.loss, val_dsc=dsc.mean)
        self._draw(epoch, result)
        self.curves.flush()
        log.info("epoch %d/%d  loss %s  val_loss %.4f  val_dsc %s%s", epoch, self.cfg.train.epochs, self.shown_loss,
                 result.loss, dsc, "  best" if best else "")  # fmt: skip
        if best:
            self.best_dsc = dsc.mean
            state = {
                "step": self.step,
                "epoch": epoch,
                "dsc": asdict(dsc),
                "split": self.split.hash,
                "config": asdict(self.cfg),
            }
            folder = self.run_dir.checkpoint(self.step)
            checkpoint.publish(folder, self.run_dir.best_pointer, self.engine.network.state_dict(), state)

    def _draw(self, epoch: int, result: Evaluation) -> None:
        pictures = [(f"{s.patient}  DSC {s.scored.dsc:.3f}", s.picture) for s in result.scores if s.picture is not None]
        if pictures and self.curves:
            picture = sheet(pictures)
            self.run_dir.write_picture(epoch, picture)
            self.curves.add_picture(self.step, "validation (prediction red, truth green)", picture)

    def _memory_gib(self) -> float:
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 2**30
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
