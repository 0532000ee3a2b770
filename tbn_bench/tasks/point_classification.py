"""Classification of point clouds.

It is that of images, with PointNet's regulariser in the loss and the mean accuracy over classes.
"""

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from tbn_bench.config import RunConfig
from tbn_bench.tasks._class_score import ClassScore
from tbn_bench.tasks.image_classification import ImageClassification


def departure_from_orthogonality(matrix: Tensor) -> Tensor:
    """Mean over clouds of || A A^T - I ||_F. A: (B, k, k) -> ().

    Qi et al. (arXiv 1612.00593, eq. 2) square the norm. The code of the TBN paper and its base do
    not, and the factor 0.001 is theirs.
    """
    product = torch.bmm(matrix, matrix.transpose(1, 2))
    identity = torch.eye(matrix.shape[1], device=matrix.device)
    distance = (product - identity).norm(dim=(1, 2))
    return distance.mean()


class PointClassification(ImageClassification):
    """model: (B, 3, P) -> (B, num_classes).

    Logs the values of images and {val,test}/class_accuracy, the mean over classes.

    reg: weight in the loss of the feature transform's departure from an orthogonal matrix. It is
    for models that give the transform by logits_and_transform(x). Other models are trained by
    cross-entropy alone.
    """

    def __init__(self, model: nn.Module, config: RunConfig, num_classes: int, reg: float = 0.001):
        super().__init__(model, config, num_classes)
        if not reg >= 0:
            raise ValueError(f"reg must be at least 0, got {reg!r}")
        self.reg = reg

    def scores(self) -> dict[str, Metric]:
        """class_accuracy leaves out classes without a sample, as in semantic segmentation."""
        class_accuracy = ClassScore(self.num_classes, "class_accuracy")
        return {**super().scores(), "class_accuracy": class_accuracy}

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        if not hasattr(self.model, "logits_and_transform"):
            return super().training_loss(x, y)
        logits, matrix = self.model.logits_and_transform(x)
        loss = self.label_loss(logits, x, y)
        if matrix is not None:
            loss = loss + self.reg * departure_from_orthogonality(matrix)
        return loss
