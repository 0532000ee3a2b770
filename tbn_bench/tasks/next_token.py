"""Language modelling: the next token at every place, by cross-entropy."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from tbn_bench.config import RunConfig
from tbn_bench.scores import IGNORED
from tbn_bench.tasks._base import Task


class TextLoss(Metric):
    """The mean of -log p(token) over all tokens of a set: nats, or bits per byte.

    outputs: (B, T, V), y: (B, T); a label of IGNORED counts nowhere. token_bytes: (V,) int64. Nats
    are divided by the number of tokens; bits by the bytes of these tokens, so that texts in other
    alphabets and other vocabularies compare.
    """

    full_state_update = False

    def __init__(self, token_bytes: Tensor, bits: bool):
        super().__init__()
        self.bits = bits
        self.register_buffer("token_bytes", token_bytes, persistent=False)
        for name in ("nats", "tokens", "bytes"):
            zero = torch.zeros((), dtype=torch.float64)  # each sum is its own tensor
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        labels = y.flatten()
        losses = F.cross_entropy(
            outputs.flatten(0, -2),
            labels,
            ignore_index=IGNORED,
            reduction="none",
        )
        counted = labels[labels != IGNORED]
        self.nats += losses.sum(dtype=torch.float64)
        self.tokens += len(counted)
        self.bytes += self.token_bytes[counted].sum()

    def compute(self) -> Tensor:
        if self.bits:
            return self.nats / (math.log(2) * self.bytes)
        return self.nats / self.tokens


class NextToken(Task):
    """model: (B, T) -> (B, T, num_classes), y: (B, T) int64.

    Logs {val,test}/{loss,bits_per_byte,nats_per_token}. token_bytes: (num_classes,) int64, the
    bytes of each token in UTF-8; None: one byte each. Raises ValueError for a model that gives no
    logits for every token.
    """

    score = "bits_per_byte"

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        num_classes: int,
        token_bytes: Tensor | None = None,
    ):
        super().__init__(model, config)
        if token_bytes is None:
            token_bytes = torch.ones(num_classes, dtype=torch.int64)
        self.num_classes = num_classes
        self.bytes_of_tokens = token_bytes
        self.configure_metrics()

    def scores(self) -> dict[str, Metric]:
        return {
            "bits_per_byte": TextLoss(self.bytes_of_tokens, bits=True),
            "nats_per_token": TextLoss(self.bytes_of_tokens, bits=False),
        }

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self._cross_entropy(self(x), y, self.config.label_smoothing)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Nats per token, the mean over the labelled tokens. outputs: (B, T, num_classes)."""
        return self._cross_entropy(outputs, y)

    def counted(self, y: Tensor) -> int:
        """The tokens with a label."""
        return int((y != IGNORED).sum())

    def _cross_entropy(self, logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        expected = (*y.shape, self.num_classes)
        if logits.shape != expected:
            raise ValueError(
                f"the model must give logits for every token, {expected}, "
                f"got {tuple(logits.shape)}; use --model gpt"
            )
        return F.cross_entropy(
            logits.flatten(0, -2),
            y.flatten(),
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )
