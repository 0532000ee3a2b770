"""Part segmentation: every point of a shape belongs to one of its category's parts.

The score is the overlap of parts, shape by shape.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from tbn_bench.config import RunConfig
from tbn_bench.scores import IGNORED
from tbn_bench.tasks._segmentation import Segmentation

Parts = Sequence[Sequence[int]]  # category -> the labels of its parts


class PartScore(Metric):
    """Each shape's score of (outputs (B, K, P), y (B, P)), averaged over shapes.

    per_category: averaged within categories first, and then over categories.

    A point's prediction is the largest output among the parts of its shape's category, and the
    shape's first label tells the category. A shape's score is the mean over those parts of
    intersection / union, where a part that is neither there nor predicted counts 1. With
    overlap=False it is the share of points predicted right (yanx27/Pointnet_Pointnet2_pytorch,
    train_partseg.py). Categories without a shape, points labelled IGNORED and shapes of such points
    alone are left out. NaN where nothing is left.
    """

    full_state_update = False

    def __init__(self, parts: Parts, overlap: bool = True, per_category: bool = False):
        super().__init__()
        self.overlap = overlap
        self.per_category = per_category
        last = max(max(labels) for labels in parts)
        member = torch.zeros(len(parts), last + 1, dtype=torch.bool)
        for category, labels in enumerate(parts):
            member[category, list(labels)] = True
        self.register_buffer("member", member, persistent=False)
        for name in ("total", "shapes"):
            self.add_state(name, torch.zeros(len(parts)), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        counted = y != IGNORED
        some = counted.any(1)
        outputs = outputs[some]
        y = y[some]
        counted = counted[some]

        first = counted.int().argmax(1, keepdim=True)
        label = y.gather(1, first).squeeze(1)
        category = self.member[:, label].int().argmax(0)
        own = self.member[category]
        predicted = outputs.masked_fill(~own.unsqueeze(2), -torch.inf).argmax(1)
        if self.overlap:
            score = _overlap(predicted, y, counted, own)
        else:
            right = (predicted == y) & counted
            score = right.sum(1) / counted.sum(1)
        self.total.index_add_(0, category, score)
        self.shapes.index_add_(0, category, torch.ones_like(score))

    def compute(self) -> Tensor:
        if not self.per_category:
            return self.total.sum() / self.shapes.sum()
        mean = self.total / self.shapes
        return mean[self.shapes > 0].mean()


def _overlap(predicted: Tensor, y: Tensor, counted: Tensor, own: Tensor) -> Tensor:
    """Each shape's mean intersection over union -> (B,).

    predicted, y: (B, P). counted: (B, P), the points to look at. own: (B, K), its category's parts.
    """
    b, k = own.shape
    row = k * torch.arange(b, device=y.device).unsqueeze(1)

    def count(labels: Tensor, points: Tensor) -> Tensor:
        places = (row + labels)[points]
        return torch.bincount(places, minlength=b * k).reshape(b, k)

    right = counted & (predicted == y)
    both = count(y, right)
    either = count(predicted, counted) + count(y, counted)
    union = either - both
    iou = torch.where(union > 0, both / union.clamp(min=1), 1.0)
    return (iou * own).sum(1) / own.sum(1)


class PartSegmentation(Segmentation):
    """Logs {val,test}/{accuracy,instance_miou,class_miou}: by points, by shapes, by categories."""

    score = "instance_miou"

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        num_classes: int,
        parts: Parts,
        reg: float = 0.001,
    ):
        labels = sorted(itertools.chain.from_iterable(parts))
        if labels != list(range(num_classes)):
            raise ValueError(
                f"parts must give each label of 0 to {num_classes - 1} to one category, got {parts}"
            )
        self.parts = parts
        super().__init__(model, config, num_classes, None, reg)

    def scores(self) -> dict[str, Metric]:
        return {
            "accuracy": PartScore(self.parts, overlap=False),
            "instance_miou": PartScore(self.parts),
            "class_miou": PartScore(self.parts, per_category=True),
        }
