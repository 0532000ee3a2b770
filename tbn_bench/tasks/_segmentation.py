"""The loss of both segmentations: cross-entropy of every point, and PointNet's regulariser."""

import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.config import RunConfig
from tbn_bench.scores import IGNORED
from tbn_bench.tasks._base import Task
from tbn_bench.tasks.point_classification import departure_from_orthogonality


class Segmentation(Task):
    """model: (B, C, P) -> (B, num_classes, P), y: (B, P) int64.

    A point labelled IGNORED counts nowhere. class_weights: (num_classes,), or None: all 1.
    reg: weight in the loss of the feature transform's departure from an orthogonal matrix, for
    models that give the transform by logits_and_transform(x). Other models are trained by
    cross-entropy alone. Raises ValueError for a model of whole clouds.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        num_classes: int,
        class_weights: Tensor | None,
        reg: float,
    ):
        super().__init__(model, config)
        if not reg >= 0:
            raise ValueError(f"reg must be at least 0, got {reg!r}")
        if class_weights is not None and class_weights.shape != (num_classes,):
            raise ValueError(
                f"class_weights must have shape ({num_classes},), one per class, "
                f"got {tuple(class_weights.shape)}"
            )
        self.num_classes = num_classes
        self.reg = reg
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.configure_metrics()

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        matrix = None
        if hasattr(self.model, "logits_and_transform"):
            logits, matrix = self.model.logits_and_transform(x)
        else:
            logits = self(x)
        loss = self._cross_entropy(logits, y, self.config.label_smoothing)
        if matrix is not None:
            loss = loss + self.reg * departure_from_orthogonality(matrix)
        return loss

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy alone, with the weights of the classes. outputs: (B, num_classes, P)."""
        return self._cross_entropy(outputs, y)

    def counted(self, y: Tensor) -> int:
        """The points with a label."""
        return int((y != IGNORED).sum())

    def _cross_entropy(self, logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        expected = (len(y), self.num_classes, *y.shape[1:])
        if logits.shape != expected:
            raise ValueError(
                f"the model must give logits for every point, {expected}, "
                f"got {tuple(logits.shape)}; use --model pointnet_part_seg or pointnet_sem_seg"
            )
        if not self.counted(y):
            return logits.sum() * 0  # cross_entropy would divide by 0
        return F.cross_entropy(
            logits,
            y,
            self.class_weights,
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )
