"""ResNets for small images (He et al., arXiv 1512.03385); the ImageNet form is resnet.py.

Depths 8, 14, 20, ... 110 (6n + 2): three stages of `width`, 2 width, 4 width (width 16), parameter-free shortcuts (section 4.2, option A).
Depths 18, 34, 50: the ImageNet stages with a 3x3 stem (width 64), 1x1-convolution shortcuts; 50 uses bottlenecks.
"""

from collections.abc import Sequence

from torch import nn

from tbn_bench.models._resnet import STAGES, BasicBlock, ResNet, check_form, wide


def resnet_cifar(
    depth: int = 20,
    width: int | None = None,
    classifier: str = "linear",
    activation: str = "relu",
    shortcuts: str = "block",
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 32, 32),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). classifier: "linear" or "conv1x1" (as the TBN authors, no bias).

    activation: "relu", "hardtanh", "prelu", "rprelu" or "maxout"; shortcuts: around every "block" of two convolutions or every "conv".
    Raises ValueError for a depth that is neither 18, 34, 50 nor 6n + 2, or an unknown option.
    """
    check_form(classifier, activation, shortcuts)
    form = (classifier, activation, shortcuts == "conv", num_classes, in_shape[0])
    if depth in STAGES:
        return wide(depth, width or 64, "cifar", form)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(
            f"depth must be 18, 34, 50 or 6n + 2 (8, 14, 20, 32, 44, 56, 110), got {depth}"
        )
    return ResNet(BasicBlock, [(depth - 2) // 6] * 3, width or 16, "pad", "cifar", *form)
