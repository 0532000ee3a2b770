"""Image classification: cross-entropy, top-1 / top-5, and what the tiles do while they learn."""

import math

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchmetrics.classification import MulticlassAccuracy

from tbn_bench.binarizers._base import ActivationBinarizer, WeightBinarizer
from tbn_bench.binarizers.tbn import TBNWeight
from tbn_bench.config import RunConfig
from tbn_bench.tiling import aggregate


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


def binary_weights(model: nn.Module) -> list[tuple[str, WeightBinarizer, Tensor]]:
    """(name, parametrization, latent weight) of every binarized weight, tied ones once."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for attribute, chain in module.parametrizations.items():
                if isinstance(chain[0], WeightBinarizer):
                    found.setdefault(id(chain.original), (f"{name}.{attribute}".lstrip("."), chain[0], chain.original))
    return list(found.values())


def learning_rate_factor(config: RunConfig, epoch: int) -> float:
    """Factor on the peak rate in `epoch` (0-based): linear warm-up, then cosine to 0, steps, or constant."""
    if epoch < config.warmup_epochs:
        return (epoch + 1) / (config.warmup_epochs + 1)
    done = epoch - config.warmup_epochs
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done / max(1, config.epochs - config.warmup_epochs)))
    return config.step_gamma ** (done // config.step_epochs) if config.schedule == "step" else 1.0


class ImageClassification(pl.LightningModule):
    """model: (B, C, H, W) -> (B, num_classes). Logs train/loss, {val,test}/{loss,top1,top5}, tile/flip_rate, tile/near_zero.

    tile/flip_rate: share of stored sign bits that changed during the epoch. tile/near_zero: share of column sums with
    |s| < 1e-3 * mean |s| of the layer, i.e. bits about to flip. Raises DivergedError on a loss that is not finite.
    """

    def __init__(self, model: nn.Module, config: RunConfig, num_classes: int):
        super().__init__()
        self.model, self.config, self.num_classes = model, config, num_classes
        self.teachers: list[nn.Module] = []  # in a list: not a part of this module, nor of its checkpoints
        self.configure_metrics()

    def learn_from(self, teacher: nn.Module | None) -> None:
        """Distillation (ReActNet, arXiv 2003.03488, section 4.4): the loss becomes the cross-entropy with the teacher's output."""
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]

    def accuracies(self) -> dict[str, MulticlassAccuracy]:
        """Name in the record -> metric of (logits, labels). A set of fewer than five classes has its top 5 among all of them."""
        n = self.num_classes
        return {f"top{k}": MulticlassAccuracy(n, top_k=min(k, n), average="micro") for k in (1, 5)}

    def configure_metrics(self) -> None:
        self.metrics = nn.ModuleDict()
        for split in ("val", "test"):
            for name, metric in self.accuracies().items():
                self.metrics[f"{split}_{name}"] = metric
        self.seen = 0
        self.signs: dict[str, Tensor] = {}

    def configure_optimizers(self):
        c = self.config
        make = {
            "sgd": lambda p: torch.optim.SGD(p, c.lr, momentum=c.momentum, weight_decay=c.weight_decay, fused=True),
            "adam": lambda p: torch.optim.Adam(p, c.lr, weight_decay=c.weight_decay, fused=True),
            "adamw": lambda p: torch.optim.AdamW(p, c.lr, weight_decay=c.weight_decay, fused=True),
            "adadelta": lambda p: torch.optim.Adadelta(p, c.lr, weight_decay=c.weight_decay),
        }
        optimizer = make[c.optimizer](self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: learning_rate_factor(c, epoch))]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (B, *in_shape), y: (B,) -> ()."""
        return self.label_loss(self(x), x, y)

    def label_loss(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of logits: (B, num_classes). With a teacher its probabilities on x are the labels and y is not looked at."""
        if not self.teachers:
            return F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing)
        with torch.no_grad():
            labels = self.teachers[0].to(x.device)(x).softmax(1)
        return F.cross_entropy(logits, labels)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        loss = self.training_loss(x, y)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"training loss became {loss.item()} in epoch {self.current_epoch}; lower lr (now {self.config.lr})"
            )
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.seen = 0

    on_test_epoch_start = on_validation_epoch_start

    def _evaluate(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        logits = self(x)
        self.seen += len(y)
        loss = F.cross_entropy(logits, y)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"{split} loss became {loss.item()} in epoch {self.current_epoch}; lower lr (now {self.config.lr})"
            )
        self.log(f"{split}/loss", loss, batch_size=len(y), on_epoch=True)
        for key, metric in self.metrics.items():
            if key.startswith(f"{split}_"):
                metric(logits, y)
                self.log(key.replace("_", "/", 1), metric, on_step=False, on_epoch=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self._evaluate("test", batch)

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        for _, method, _ in binary_weights(self.model):
            method.begin_step()

    def on_train_epoch_start(self) -> None:
        for module in self.model.modules():
            if isinstance(module, WeightBinarizer | ActivationBinarizer):
                module.begin_epoch(self.current_epoch, self.config.epochs)
        self.signs = {name: method.signs(weight.detach()) for name, method, weight in binary_weights(self.model)}

    def on_train_epoch_end(self) -> None:
        flips = bits = near = sums = 0
        for name, method, weight in binary_weights(self.model):
            old, new = self.signs[name], method.signs(weight.detach())
            flips, bits = flips + int((old != new).sum()), bits + new.numel()
            if isinstance(method, TBNWeight):
                s = aggregate(weight.detach(), method.p, method.copies).abs()
                near, sums = near + int((s < 1e-3 * s.mean()).sum()), sums + s.numel()
        if bits:
            self.log("tile/flip_rate", flips / bits)
        if sums:
            self.log("tile/near_zero", near / sums)
