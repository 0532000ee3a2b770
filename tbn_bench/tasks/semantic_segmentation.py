"""Semantic segmentation: every point of a scene has a class.

The score is the overlap of classes over all points of the set.
"""

from torch import Tensor, nn
from torchmetrics import Metric

from tbn_bench.config import RunConfig
from tbn_bench.tasks._class_score import ClassScore
from tbn_bench.tasks._segmentation import Segmentation


class SemanticSegmentation(Segmentation):
    """Logs {val,test}/{accuracy,class_accuracy,miou}.

    The loss weighs the classes where the data set gives weights.
    """

    score = "miou"

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        num_classes: int,
        class_weights: Tensor | None = None,
        reg: float = 0.001,
    ):
        super().__init__(model, config, num_classes, class_weights, reg)

    def scores(self) -> dict[str, Metric]:
        return {
            "accuracy": ClassScore(self.num_classes, "accuracy"),
            "class_accuracy": ClassScore(self.num_classes, "class_accuracy"),
            "miou": ClassScore(self.num_classes, "miou"),
        }
