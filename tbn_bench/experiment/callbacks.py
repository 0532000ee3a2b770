"""The trainer of a run: rows of its record, checkpoints, and the random state inside them."""

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from tbn_bench.config import RunConfig
from tbn_bench.experiment.distributed import Follower
from tbn_bench.experiment.first_batch import FirstBatch
from tbn_bench.experiment.options import RunOptions
from tbn_bench.experiment.random_state import random_state, restore_random_state
from tbn_bench.experiment.tile_layers import shares
from tbn_bench.records import tiles
from tbn_bench.records.files import replace
from tbn_bench.records.run import Run
from tbn_bench.records.text import tell
from tbn_bench.scores import SCORES, shown
from tbn_bench.tracking.mirror import Mirrors

BEST = "best"
LAST = "last"
_LOGGERS = ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")


class Recorder(Checkpoint):
    """Logs one durable row per epoch, and keeps the random state in every checkpoint.

    A resumed run therefore gives the same numbers, bit by bit. lines: also print a line per epoch.
    """

    def __init__(self, run: Run | Follower, mirrors: Mirrors, lines: bool):
        self.run = run
        self.mirrors = mirrors
        self.lines = lines
        self.training_seconds = 0.0
        self.lr = 0.0
        self.random: dict[str, Any] | None = None
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self.started = time.perf_counter()
        self.cpu_started = time.process_time()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # read here: the schedule moves before the epoch ends
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.training_started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.training_seconds = now - self.training_started

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        metrics = {}
        for name, value in sorted(trainer.callback_metrics.items()):
            if not name.startswith("test/"):
                metrics[name] = float(value)
        row = self._row(trainer, metrics)
        self._restart_clocks()
        self.run.log(row, durable=True)
        if isinstance(self.run, Run):
            flips, near_zero = shares(module)
            if flips:
                tiles.append(self.run.path, row["epoch"], flips, near_zero)
        self.mirrors.log(row, module.model)
        if self.lines:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            tell(f"{epoch}  {_scores(metrics, module.score)}{row['seconds']:.1f} s")

    def _row(self, trainer: pl.Trainer, metrics: dict[str, float]) -> dict[str, Any]:
        """The epoch's row of the record. Times are since the end of the last epoch."""
        seconds = time.perf_counter() - self.started
        cpu_seconds = time.process_time() - self.cpu_started
        return {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "lr": self.lr,
            **metrics,
            "seconds": round(seconds, 3),
            "epoch_cpu_seconds": round(cpu_seconds, 3),
            "epoch_training_seconds": round(self.training_seconds, 3),
        }

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random"] = random_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.random = checkpoint["random"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.random is not None:
            restore_random_state(self.random)
            self.random = None


def _scores(metrics: dict[str, float], score: str) -> str:
    """The training loss and, if samples are held out, the score on these."""
    loss = metrics.get("train/loss", float("nan"))
    text = f"loss {loss:.4f}  "
    if "val/loss" in metrics:
        held_out = shown({**metrics, "score": score}, "val")
        text += f"val {held_out}  "
    return text


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and renames it.

    Lightning writes to the system's temporary folder and moves the file from there. On another disk
    that is a copy: a kill in its middle, or a full disk, leaves half a checkpoint and no old one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace(Path(path), content.getvalue())


def make_trainer(
    config: RunConfig, options: RunOptions, run: Run | Follower, recorder: Recorder, score: str
) -> pl.Trainer:
    """score: the one that chooses the epoch."""
    kept = [
        ModelCheckpoint(
            run.checkpoints,
            LAST,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
    ]
    if config.select == "best":
        best = ModelCheckpoint(
            run.checkpoints,
            BEST,
            monitor=f"val/{score}",
            mode=SCORES[score].goal,
            enable_version_counter=False,
        )
        kept.insert(0, best)
    return pl.Trainer(
        max_epochs=config.epochs,
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        gradient_clip_val=config.clip_norm or None,
        callbacks=[FirstBatch(), recorder, *kept],
        plugins=[AtomicCheckpoints()],
        logger=False,
        enable_progress_bar=options.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Lightning's start-up lines and its advice about workers: the data are in memory."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = []
    for logger in loggers:
        levels.append(logger.level)
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
