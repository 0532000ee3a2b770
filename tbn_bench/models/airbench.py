"""The CIFAR-10 network of KellerJordan/cifar10-airbench: 94 % in 0.28 PFLOP.

The facts are those of commit f1c599c, the code is ours.

    whitening conv 2x2 (24 frozen filters) -> GELU
    -> three groups [conv 3x3, max pool 2, batch norm, GELU, conv 3x3, batch norm, GELU]
    -> max pool 3 -> linear without bias, logits / width

The whitening filters come from the covariance of 2x2 patches of training images: each eigenvector
over the root of its eigenvalue, then the negatives of all of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PATCH = 2
EPSILON = 5e-4
WHITENING_EPOCHS = 3  # the bias of the whitening layer is trained only in these epochs
BATCH_NORM = {"eps": 1e-12, "momentum": 0.4}


def whitening_filters(images: Tensor) -> Tensor:
    """Eigenvectors over root (eigenvalue + 5e-4), then their negatives.

    images: (N, 3, H, W), normalised -> (24, 3, 2, 2).
    """
    channels = images.shape[1]
    patches = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
    rows = patches.permute(0, 2, 3, 1, 4, 5)
    rows = rows.reshape(-1, channels * PATCH * PATCH).double()
    covariance = rows.T @ rows / len(rows)
    values, vectors = torch.linalg.eigh(covariance)

    order = values.argsort(descending=True)
    root = (values[order, None] + EPSILON).sqrt()
    scaled = vectors.T[order] / root

    # An eigenvector's sign is arbitrary and differs between processors.
    # Here the largest entry is positive.
    largest_at = scaled.abs().argmax(1, keepdim=True)
    largest = scaled.gather(1, largest_at)
    scaled = (scaled * largest.sign()).float()
    filters = scaled.reshape(-1, channels, PATCH, PATCH)
    return torch.cat([filters, -filters])


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3 without bias; the first `inputs` filters start as the identity."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:inputs])
    return conv


def _norm(channels: int, learn_scale: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, **BATCH_NORM)
    norm.weight.requires_grad_(learn_scale)
    return norm


def _group(inputs: int, outputs: int, learn_scale: bool) -> nn.Sequential:
    return nn.Sequential(
        _conv(inputs, outputs),
        nn.MaxPool2d(2),
        _norm(outputs, learn_scale),
        nn.GELU(),
        _conv(outputs, outputs),
        _norm(outputs, learn_scale),
        nn.GELU(),
    )


def _pooled(pixels: int) -> int:
    """The length of one side of the map after all pools."""
    after_groups = (pixels - 1) // 8
    return after_groups // 3


class Airbench(nn.Module):
    """x: (B, 3, 32, 32) -> (B, num_classes).

    widths: channels of the three groups. learn_scale: the scale of batch norm is learned; the
    recipe fixes it at 1.
    training_images: (N, 3, H, W), normalised, for the whitening filters. Without them the filters
    are random: a plan, a network that is loaded, or a caller's own loop has none.

    Raises ValueError for data other than images of 3 channels of at least 25 x 25 pixels, and for
    impossible widths.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_shape: Sequence[int] = (3, 32, 32),
        widths: Sequence[int] = (64, 256, 256),
        learn_scale: bool = False,
        training_images: Tensor | None = None,
    ):
        super().__init__()
        _check(in_shape, widths)
        channels, height, width = in_shape

        filters = 2 * channels * PATCH * PATCH
        self.whiten = nn.Conv2d(channels, filters, PATCH)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)
        if training_images is not None:
            start = whitening_filters(training_images)
            self.whiten.weight.data.copy_(start)
        self.activation = nn.GELU()

        groups: list[nn.Module] = []
        inputs = filters
        for outputs in widths:
            groups.append(_group(inputs, outputs, learn_scale))
            inputs = outputs
        self.groups = nn.Sequential(*groups)

        self.pool = nn.MaxPool2d(3)
        pixels = _pooled(height) * _pooled(width)
        features = widths[-1] * pixels
        self.head = nn.Linear(features, num_classes, bias=False)
        if not self.head.weight.is_meta:
            with torch.no_grad():
                spread = self.head.weight.std()
                self.head.weight.div_(spread)

        self.width = widths[-1]

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The whitening bias is frozen after three epochs."""
        learned = epoch < WHITENING_EPOCHS
        self.whiten.bias.requires_grad_(learned)

    def forward(self, x: Tensor) -> Tensor:
        x = self.whiten(x)
        x = self.activation(x)
        x = self.groups(x)
        x = self.pool(x).flatten(1)
        return self.head(x) / self.width


def _is_count(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) and value >= 1


def _check(in_shape: Sequence[int], widths: Sequence[int]) -> None:
    if len(in_shape) != 3 or in_shape[0] != 3 or min(in_shape[1:]) < 25:
        raise ValueError(
            "airbench: layer whiten takes the colours of images of 3 channels and at least "
            f"25 x 25 pixels, got samples of shape {tuple(in_shape)}; use cifar10, or another model"
        )
    listed = isinstance(widths, list | tuple) and len(widths) == 3
    if not listed or not all(map(_is_count, widths)):
        raise ValueError(
            f"airbench: widths must be three channel counts, e.g. [64, 256, 256], got {widths!r}"
        )
