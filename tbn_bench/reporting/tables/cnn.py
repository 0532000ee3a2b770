"""Convolutional networks on CIFAR and ImageNet, binary weights and real activations.

It corresponds to the first table of arXiv 2407.12075.
"""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables._paper import Scope, of

SCOPE = Scope(
    "CNNs, published and ours",
    frozenset({"resnet_cifar", "resnet", "vgg_small"}),
    frozenset({"cifar10", "cifar100", "imagenet", "tiny_imagenet"}),
    note=(
        "Methods with binary activations are in the comparison of their track. Runs on other data "
        "are under Comparison."
    ),
)


def cnn(records: Records) -> Table | None:
    return of(records, SCOPE)
