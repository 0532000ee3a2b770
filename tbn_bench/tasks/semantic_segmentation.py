"""Semantic segmentation: every point of a scene is of a class; judged by the overlap of classes over all points of the set."""

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from tbn_bench.config import RunConfig
from tbn_bench.tasks._segmentation import Segmentation


class ClassScore(Metric):
    """Of (outputs (B, K, P), y (B, P)), all points of the set together; those labelled below 0 are left out.

    accuracy: the share of points predicted right. class_accuracy: the mean over classes of that share, without classes that no point has.
    miou: the mean over classes of intersection / union, without classes that no point has and none is taken for.
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


class SemanticSegmentation(Segmentation):
    """Logs {val,test}/{accuracy,class_accuracy,miou}. The loss weighs the classes, where the data set says how."""

    score = "miou"

    def __init__(
        self, model: nn.Module, config: RunConfig, num_classes: int, class_weights: Tensor | None = None, reg: float = 0.001
    ):
        super().__init__(model, config, num_classes, class_weights, reg)

    def scores(self) -> dict[str, Metric]:
        return {kind: ClassScore(self.num_classes, kind) for kind in ("accuracy", "class_accuracy", "miou")}
