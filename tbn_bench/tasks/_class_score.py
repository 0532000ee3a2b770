"""Accuracy by classes and overlap of classes, over a whole set: for clouds and for their points."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ClassScore(Metric):
    """Of (outputs (B, K, ...), y (B, ...)), all samples (points, pixels) of the set together; those labelled below 0 are left out.

    accuracy: the share of samples predicted right. class_accuracy: the mean over classes of that share, without classes that no
    sample has, whatever is predicted. miou: the mean over classes of intersection / union, without classes that no sample has and
    none is taken for.
    """

    full_state_update = False

    def __init__(self, num_classes: int, kind: str):
        super().__init__()
        self.num_classes, self.kind = num_classes, kind
        for name in ("both", "guessed", "there"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        counted = y >= 0
        predicted, y = outputs.argmax(1)[counted], y[counted]
        for state, labels in ((self.both, y[predicted == y]), (self.guessed, predicted), (self.there, y)):
            state += torch.bincount(labels, minlength=self.num_classes)

    def compute(self) -> Tensor:
        if self.kind == "accuracy":
            return self.both.sum() / self.there.sum()
        of = self.there if self.kind == "class_accuracy" else self.guessed + self.there - self.both
        return (self.both / of)[of > 0].mean()
