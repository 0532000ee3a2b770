"""ResNets for small images (He et al., arXiv 1512.03385); the ImageNet form is resnet.py.

Depths 8, 14, 20, ... 110 (6n + 2) have three stages of `width`, 2 width and 4 width channels
(width 16) and parameter-free shortcuts (section 4.2, option A). Depths 18, 34 and 50 have the
stages of the ImageNet form behind a 3x3 stem (width 64), and 1x1-convolution shortcuts; 50 uses
bottlenecks.
"""

from collections.abc import Sequence

from torch import nn

from tbn_bench.models._resnet import STAGES, BasicBlock, Form, ResNet, check_form, wide


def resnet_cifar(
    depth: int = 20,
    width: int | None = None,
    classifier: str = "linear",
    activation: str = "relu",
    shortcuts: str = "block",
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 32, 32),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes).

    classifier: "linear", or "conv1x1" without a bias, as the TBN authors use it.
    activation: "relu", "hardtanh", "prelu", "rprelu" or "maxout".
    shortcuts: one around every "block" of two convolutions, or one around every "conv".

    Raises ValueError for a depth that is neither 18, 34, 50 nor 6n + 2, or an unknown option.
    """
    check_form(classifier, activation, shortcuts)
    form = Form(
        classifier=classifier,
        activation=activation,
        around_each=shortcuts == "conv",
        num_classes=num_classes,
        c_in=in_shape[0],
    )
    if depth in STAGES:
        return wide(depth, width or 64, "cifar", form)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(
            f"depth must be 18, 34, 50 or 6n + 2 (8, 14, 20, 32, 44, 56, 110), got {depth}"
        )
    blocks = (depth - 2) // 6
    return ResNet(BasicBlock, [blocks] * 3, width or 16, "pad", "cifar", form)
