"""Forecasting: mean squared error in training, MSE and MAE in evaluation.

Both are on scaled data, over all rows and columns, as the literature reports them.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric

from tbn_bench.config import RunConfig
from tbn_bench.tasks._base import Task


class _Shaped:
    """Outputs of any shape, as long as there is one number for each of y's."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        flat_preds = preds.reshape(-1).contiguous()
        flat_target = target.reshape(-1).contiguous()
        super().update(flat_preds, flat_target)  # type: ignore[misc]


class MSE(_Shaped, MeanSquaredError):
    pass


class MAE(_Shaped, MeanAbsoluteError):
    pass


class Forecasting(Task):
    """model: (B, lookback, channels) -> (B, horizon, targets), or (B, horizon * targets).

    Logs {val,test}/{loss,mse,mae}.
    """

    score = "mse"

    def __init__(self, model: nn.Module, config: RunConfig):
        super().__init__(model, config)
        self.configure_metrics()

    def scores(self) -> dict[str, Metric]:
        return {"mse": MSE(), "mae": MAE()}

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.evaluation_loss(self(x), y)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs.reshape(y.shape), y)
