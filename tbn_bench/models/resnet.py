"""ResNets for ImageNet (He et al., arXiv 1512.03385, table 1): 7x7 stem of stride 2, 3x3 max pool, four stages, 1x1-convolution shortcuts.

Depths 18, 34 and, with bottlenecks, 50. resnet(depth=34, classifier='conv1x1', num_classes=1000): 21,779,648 weights.
"""

from collections.abc import Sequence

from torch import nn

from tbn_bench.models._resnet import STAGES, check_form, wide


def resnet(
    depth: int = 18,
    width: int = 64,
    classifier: str = "linear",
    activation: str = "relu",
    shortcuts: str = "block",
    num_classes: int = 1000,
    in_shape: Sequence[int] = (3, 224, 224),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). The options are those of resnet_cifar; "conv1x1" is the TBN authors' classifier.

    Raises ValueError for a depth other than 18, 34 and 50, or an unknown option.
    """
    check_form(classifier, activation, shortcuts)
    if depth not in STAGES:
        raise ValueError(f"depth must be 18, 34 or 50, got {depth}; resnet_cifar has 6n + 2")
    return wide(
        depth,
        width,
        "imagenet",
        (classifier, activation, shortcuts == "conv", num_classes, in_shape[0]),
    )
