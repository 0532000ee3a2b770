"""Classification of images: cross-entropy, top-1 and top-5."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from tbn_bench.config import RunConfig
from tbn_bench.tasks._base import Task


class ImageClassification(Task):
    """model: (B, C, H, W) -> (B, num_classes). Logs {val,test}/{loss,top1,top5} and what every task does."""

    score = "top1"

    def __init__(self, model: nn.Module, config: RunConfig, num_classes: int):
        super().__init__(model, config)
        self.num_classes = num_classes
        self.teachers: list[nn.Module] = []  # in a list: not a part of this module, nor of its checkpoints
        self.configure_metrics()

    def learn_from(self, teacher: nn.Module | None) -> None:
        """Distillation (ReActNet, arXiv 2003.03488, section 4.4): the loss becomes the cross-entropy with the teacher's output."""
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]

    def scores(self) -> dict[str, MulticlassAccuracy]:
        """A set of fewer than five classes has its top 5 among all of them."""
        n = self.num_classes
        return {f"top{k}": MulticlassAccuracy(n, top_k=min(k, n), average="micro") for k in (1, 5)}

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (B, *in_shape), y: (B,) -> ()."""
        return self.label_loss(self(x), x, y)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y)

    def label_loss(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of logits: (B, num_classes). With a teacher its probabilities on x are the labels and y is not looked at."""
        if not self.teachers:
            return F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing)
        with torch.no_grad():
            labels = self.teachers[0].to(x.device)(x).softmax(1)
        return F.cross_entropy(logits, labels)
