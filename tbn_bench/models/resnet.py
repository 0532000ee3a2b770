"""ResNets for ImageNet (He et al., arXiv 1512.03385, table 1).

A 7x7 stem of stride 2, a 3x3 max pool, and four stages with 1x1-convolution shortcuts. The depth is
18, 34 or 50; 50 uses bottlenecks.

resnet(depth=34, classifier='conv1x1', num_classes=1000): 21,779,648 weights.
"""

from collections.abc import Sequence

from torch import nn

from tbn_bench.models._resnet import STAGES, Form, check_form, wide


def resnet(
    depth: int = 18,
    width: int = 64,
    classifier: str = "linear",
    activation: str = "relu",
    shortcuts: str = "block",
    num_classes: int = 1000,
    in_shape: Sequence[int] = (3, 224, 224),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes).

    The options are those of resnet_cifar. The TBN authors use the classifier "conv1x1".

    Raises ValueError for a depth other than 18, 34 and 50, or an unknown option.
    """
    check_form(classifier, activation, shortcuts)
    if depth not in STAGES:
        raise ValueError(f"depth must be 18, 34 or 50, got {depth}; resnet_cifar has 6n + 2")
    form = Form(
        classifier=classifier,
        activation=activation,
        around_each=shortcuts == "conv",
        num_classes=num_classes,
        c_in=in_shape[0],
    )
    return wide(depth, width, "imagenet", form)
