"""The parts of every task: optimizer and schedule, evaluation, and statistics of stored signs."""

import math
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchmetrics import Metric

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.config import RunConfig
from tbn_bench.convert.advance import advance_, begin_step_
from tbn_bench.optimizers._base import optimizer_of
from tbn_bench.records.predictions import Predictions
from tbn_bench.tasks._batch_norm import reestimate_

BN_MOMENTUM = 0.1
BN_MOMENTUM_FLOOR = 0.01
NEAR_ZERO = 1e-3  # of the mean magnitude of a layer's column sums


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


def binary_weights(model: nn.Module) -> list[tuple[str, WeightBinarizer, Tensor]]:
    """(name, parametrization, latent weight) of every binarized weight, tied ones once."""
    found = {}
    for name, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        for attribute, chain in module.parametrizations.items():
            method = chain[0]
            if isinstance(method, WeightBinarizer):
                full_name = f"{name}.{attribute}".lstrip(".")
                row = (full_name, method, chain.original)
                found.setdefault(id(chain.original), row)
    return list(found.values())


def learning_rate_factor(config: RunConfig, position: int, per_epoch: int = 1) -> float:
    """Factor on the peak rate at `position` (0-based).

    per_epoch: the number of positions in an epoch, 1 or its training steps.
    The warm-up is linear. Then the factor follows a cosine or a line to 0, a cosine to min_lr,
    steps, or is constant. It is never below min_lr after the warm-up.
    """
    warmup = config.warmup_epochs * per_epoch
    if position < warmup:
        return (position + 1) / (warmup + 1)
    done = position - warmup
    total = config.epochs * per_epoch - warmup
    share = min(1.0, done / max(1, total))
    steps = done // (config.step_epochs * per_epoch)
    floor = config.min_lr / config.lr
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    factors = {
        "cosine": cosine,
        "cosine_to_min": floor + (1 - floor) * cosine,
        "linear": 1 - share,
        "step": config.step_gamma**steps,
        "constant": 1.0,
    }
    return max(factors[config.schedule], floor)


def batch_norm_momentum(config: RunConfig, epoch: int) -> float:
    """0.1 times bn_momentum_gamma every step_epochs, at least 0.01.

    The rule is that of yanx27/Pointnet_Pointnet2_pytorch, train_partseg.py.
    """
    steps = epoch // config.step_epochs
    momentum = BN_MOMENTUM * config.bn_momentum_gamma**steps
    return max(momentum, BN_MOMENTUM_FLOOR)


class Task(pl.LightningModule):
    """A model with its losses and metrics.

    Logs train/loss, {val,test}/loss, the scores of both splits, tile/flip_rate and tile/near_zero.

    A subclass names its `score` (of scores.SCORES: the metric that chooses the epoch) and gives
    training_loss, evaluation_loss and scores. The other constructor arguments come from the data
    module, by name, or from the call.

    tile/flip_rate: share of stored sign bits that changed during the epoch. tile/near_zero: share
    of column sums with |s| < 1e-3 * mean |s| of the layer, i.e. bits about to flip. Raises
    DivergedError on a loss that is not finite.
    """

    score: ClassVar[str]

    def __init__(self, model: nn.Module, config: RunConfig):
        super().__init__()
        self.model = model
        self.config = config
        self.signs: dict[str, Tensor] = {}
        self.seen = 0
        self.channels_last = False

    def scores(self) -> dict[str, Metric]:
        """Name in the record -> metric of (outputs, y)."""
        raise NotImplementedError  # abstract

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (B, *in_shape), y: (B, ...) -> ()."""
        raise NotImplementedError  # abstract

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """outputs of the model, y: (B, ...) -> ()."""
        raise NotImplementedError  # abstract

    def counted(self, y: Tensor) -> int:
        """The number of samples or points that a batch's loss is the mean of. y: (B, ...)."""
        return len(y)

    def learn_from(self, teacher: nn.Module | None) -> None:
        """Raises ValueError: only classification learns from a teacher."""
        if teacher is not None:
            raise ValueError(
                f"--teacher is for classification, got a {type(self).__name__} task; leave it out"
            )

    def configure_metrics(self) -> None:
        """Each split has its own metrics, which add up over batches and over processes."""
        self.metrics = nn.ModuleDict()
        for split in ("val", "test"):
            for name, metric in self.scores().items():
                self.metrics[f"{split}_{name}"] = metric

    def configure_optimizers(self):
        config = self.config
        optimizer = optimizer_of(self.model, config)
        per_epoch = 1
        if config.schedule_every != "epoch":
            per_epoch = len(self.trainer.datamodule.train_dataloader())

        def factor(position: int) -> float:
            return learning_rate_factor(config, position, per_epoch)

        schedule = {
            "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
            "interval": config.schedule_every,
        }
        return [optimizer], [schedule]

    def reestimate_(self, data: Any, autocast: bool) -> None:
        """Estimates batch norm's statistics on the data module's fixed training samples.

        autocast: in the precision of training.
        """
        bf16 = autocast and self.config.precision == "bf16"
        batches = (x.to(self.device) for x in data.fixed_batches())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            reestimate_(self, batches)

    def lay_out(self, channels_last: bool, compiled: bool) -> None:
        """Sets memory format and compilation, both in place: names in checkpoints stay the same."""
        self.channels_last = channels_last
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        if compiled:
            self.model.compile()

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.model(x)

    def _finite(self, loss: Tensor, which: str) -> Tensor:
        if not torch.isfinite(loss):
            raise DivergedError(
                f"{which} loss became {loss.item()} in epoch {self.current_epoch}; "
                f"lower lr (now {self.config.lr})"
            )
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        loss = self._finite(self.training_loss(x, y), "training")
        self.log(
            "train/loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=self.counted(y),
            sync_dist=True,
        )
        return loss

    def on_validation_epoch_start(self) -> None:
        self.seen = 0
        if self.config.batch_norm == "reestimated":
            self.reestimate_(self.trainer.datamodule, autocast=True)

    def on_test_epoch_start(self) -> None:
        self.seen = 0

    def _evaluate(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        outputs = self(x)
        self.seen += len(y)
        loss = self._finite(self.evaluation_loss(outputs, y), split)
        self.observe(split, outputs, y)
        counted = self.counted(y)
        self.log(f"{split}/loss", loss, batch_size=counted, on_epoch=True, sync_dist=True)
        for key, metric in self.metrics.items():
            if key.startswith(f"{split}_"):
                metric.update(outputs, y)
                self.log(key.replace("_", "/", 1), metric, on_step=False, on_epoch=True)

    def observe(self, split: str, outputs: Tensor, y: Tensor) -> None:
        """Sees the outputs of every evaluated batch."""

    def predictions(self) -> Predictions | None:
        """Of the last test, in the order of the data; None where the task predicts no class."""
        return None

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Always in float32, because the packed file computes in float32 too."""
        with torch.autocast(self.device.type, enabled=False):
            self._evaluate("test", batch)

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        begin_step_(self.model)

    def on_test_epoch_end(self) -> None:
        self.seen = int(self.all_gather(torch.tensor(self.seen)).sum())

    def on_train_epoch_start(self) -> None:
        epoch = self.current_epoch
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # augmentation and dropout differ between processes, and are the same after a resume
            of_epoch = self.config.seed * 10_007 + epoch
            torch.manual_seed(of_epoch * 1_009 + torch.distributed.get_rank())

        advance_(self.model, epoch, self.config.epochs)
        if self.config.bn_momentum_gamma < 1:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = batch_norm_momentum(self.config, epoch)

        self.signs = {}
        for name, method, weight in binary_weights(self.model):
            self.signs[name] = method.signs(weight.detach())

    def on_train_epoch_end(self) -> None:
        flips = bits = near = sums = 0
        for name, method, weight in binary_weights(self.model):
            old = self.signs[name]
            new = method.signs(weight.detach())
            flips += int((old != new).sum())
            bits += new.numel()
            column_sums = method.column_sums(weight.detach())
            if column_sums is not None:
                magnitudes = column_sums.abs()
                limit = NEAR_ZERO * magnitudes.mean()
                near += int((magnitudes < limit).sum())
                sums += magnitudes.numel()
        if bits:
            self.log("tile/flip_rate", flips / bits)
        if sums:
            self.log("tile/near_zero", near / sums)
