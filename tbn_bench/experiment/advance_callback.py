"""Schedules of binarizers in anyone's LightningModule."""

from typing import Any

import pytorch_lightning as pl

from tbn_bench.convert.advance import advance_, begin_step_


class Advance(pl.Callback):
    """Calls advance_ before each epoch and begin_step_ before each step of a Lightning training.

    `pl.Trainer(callbacks=[tb.Advance()])` is all that irnet, adabin, sparks and snn need; the
    suite's own tasks do it by themselves. The length of the schedule is the trainer's max_epochs.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises ValueError where the trainer has no number of epochs."""
        epochs = trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError(
                f"tbn_bench.Advance needs Trainer(max_epochs=...), got max_epochs={epochs!r}"
            )
        advance_(pl_module, trainer.current_epoch, epochs)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        begin_step_(pl_module)
