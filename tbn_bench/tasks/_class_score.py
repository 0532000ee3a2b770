"""Accuracies and overlaps by class, over all samples or points of a set together."""

import torch
from torch import Tensor
from torchmetrics import Metric

from tbn_bench.scores import IGNORED


class ClassScore(Metric):
    """A score of (outputs (B, K), y (B,)) or (outputs (B, K, P), y (B, P)).

    A label of IGNORED is left out.

    accuracy: the share that is predicted right. class_accuracy: the mean over classes of that
    share. miou: the mean over classes of intersection / union. A class without a label is left
    out of class_accuracy. A class without a label and without a prediction is left out of miou.
    NaN where nothing is left.
    """

    full_state_update = False

    def __init__(self, num_classes: int, kind: str):
        super().__init__()
        self.num_classes = num_classes
        self.kind = kind
        for name in ("both", "guessed", "there"):
            empty = torch.zeros(num_classes, dtype=torch.int64)
            self.add_state(name, empty, dist_reduce_fx="sum")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        counted = y != IGNORED
        predicted = outputs.argmax(1)[counted]
        y = y[counted]
        self.both += self._count(y[predicted == y])
        self.guessed += self._count(predicted)
        self.there += self._count(y)

    def _count(self, labels: Tensor) -> Tensor:
        return torch.bincount(labels, minlength=self.num_classes)

    def compute(self) -> Tensor:
        if self.kind == "accuracy":
            return self.both.sum() / self.there.sum()
        if self.kind == "class_accuracy":
            return self._mean(self.there)
        return self._mean(self.guessed + self.there - self.both)

    def _mean(self, of: Tensor) -> Tensor:
        share = self.both / of
        labelled = of > 0
        return share[labelled].mean()
