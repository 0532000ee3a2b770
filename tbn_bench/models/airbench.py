"""The CIFAR-10 network of KellerJordan/cifar10-airbench (facts of f1c599c; code ours): 94 % in 0.28 PFLOP.

    whitening conv 2x2 (24 frozen filters) -> GELU
    -> three groups [conv 3x3, max pool 2, batch norm, GELU, conv 3x3, batch norm, GELU]
    -> max pool 3 -> linear without bias, logits / width

The whitening filters are the eigenvectors of the covariance of 2x2 patches of training images, each over the root of its
eigenvalue, and their negatives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PATCH, EPSILON = 2, 5e-4
WHITENING_EPOCHS = 3  # the bias of the whitening layer is trained for so long
BATCH_NORM = {"eps": 1e-12, "momentum": 0.4}


def whitening_filters(images: Tensor) -> Tensor:
    """images: (N, 3, H, W), normalised -> (24, 3, 2, 2): eigenvectors over root (eigenvalue + 5e-4), then their negatives."""
    patches = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * PATCH * PATCH).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    order = values.argsort(descending=True)
    scaled = vectors.T[order] / (values[order, None] + EPSILON).sqrt()
    # an eigenvector's sign is arbitrary and differs between processors: its largest entry is made positive
    largest = scaled.gather(1, scaled.abs().argmax(1, keepdim=True))
    scaled = (scaled * largest.sign()).float().reshape(-1, images.shape[1], PATCH, PATCH)
    return torch.cat([scaled, -scaled])


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


class Airbench(nn.Module):
    """x: (B, 3, 32, 32) -> (B, num_classes).

    widths: channels of the three groups. learn_scale: batch norm's scale is learned (the recipe fixes it at 1).
    training_images: (N, 3, H, W), normalised, for the whitening filters; without them (a plan, a network that is loaded, a loop of
    one's own) they are random. Raises ValueError for other data than images of 3 channels of at least 32 x 32, and for impossible widths.
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
        filters = 2 * in_shape[0] * PATCH * PATCH
        self.whiten = nn.Conv2d(in_shape[0], filters, PATCH)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)
        if training_images is not None:
            self.whiten.weight.data.copy_(whitening_filters(training_images))
        self.activation = nn.GELU()
        inputs = [filters, *widths[:-1]]
        self.groups = nn.Sequential(
            *(_group(a, b, learn_scale) for a, b in zip(inputs, widths, strict=True))
        )
        self.pool = nn.MaxPool2d(3)
        side = ((in_shape[1] - 1) // 8) // 3
        self.head = nn.Linear(
            widths[-1] * side * ((in_shape[2] - 1) // 8 // 3), num_classes, bias=False
        )
        if not self.head.weight.is_meta:
            with torch.no_grad():
                self.head.weight.div_(self.head.weight.std())
        self.width = widths[-1]

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The whitening bias is frozen after three epochs."""
        self.whiten.bias.requires_grad_(epoch < WHITENING_EPOCHS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.activation(self.whiten(x)))
        return self.head(self.pool(x).flatten(1)) / self.width


def _check(in_shape: Sequence[int], widths: Sequence[int]) -> None:
    if len(in_shape) != 3 or in_shape[0] != 3 or min(in_shape[1:]) < 25:
        raise ValueError(
            "airbench: layer whiten takes the colours of images of 3 channels and at least 25 x 25 pixels, "
            f"got samples of shape {tuple(in_shape)}; use cifar10, or another model"
        )
    whole = isinstance(widths, list | tuple) and all(
        isinstance(w, int) and not isinstance(w, bool) for w in widths
    )
    if not whole or len(widths) != 3 or min(widths) < 1:
        raise ValueError(
            f"airbench: widths must be three channel counts, e.g. [64, 256, 256], got {widths!r}"
        )
