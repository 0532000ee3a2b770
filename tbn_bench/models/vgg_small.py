"""VGG-small, the CIFAR-10 network of many binary-network papers, as in IR-Net (arXiv 1909.10788).

Six 3x3 convolutions of width, width, 2 width, 2 width, 4 width, 4 width channels (width 128), a max
pool after every second one, then one linear layer: 4,656,512 weights on 3 x 32 x 32. The order is
that of IR-Net's code: convolution, pool, batch norm, activation.
"""

from collections.abc import Sequence

from torch import nn

from tbn_bench.models._resnet import ACTIVATIONS, choice


def vgg_small(
    width: int = 128,
    activation: str = "relu",
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 32, 32),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). activation: one of resnet_cifar's.

    Raises ValueError for an unknown activation, or an image that three pools leave nothing of.
    """
    choice("activation", activation, ACTIVATIONS)
    channels, height, width_px = in_shape
    if min(height, width_px) < 8:
        raise ValueError(
            "vgg_small halves the image three times: it takes 8 x 8 pixels or more, "
            f"got {height} x {width_px}"
        )

    layers: list[nn.Module] = []
    for index, factor in enumerate((1, 1, 2, 2, 4, 4)):
        c_out = factor * width
        layers.append(nn.Conv2d(channels, c_out, 3, 1, 1, bias=False))
        if index % 2:
            layers.append(nn.MaxPool2d(2))
        layers.append(nn.BatchNorm2d(c_out))
        layers.append(ACTIVATIONS[activation](c_out))
        channels = c_out

    pixels = (height // 8) * (width_px // 8)
    features = channels * pixels
    head = nn.Linear(features, num_classes)
    return nn.Sequential(*layers, nn.Flatten(), head)
