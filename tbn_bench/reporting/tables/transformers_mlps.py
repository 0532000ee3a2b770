"""Transformers, MLP-Mixer and ConvMixer on CIFAR-10 and ImageNet."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables._paper import Scope, of

SCOPE = Scope(
    "Transformers and MLPs, published and ours",
    frozenset({"vit", "swin", "mlp_mixer", "conv_mixer"}),
    frozenset({"cifar10", "cifar100", "imagenet", "tiny_imagenet"}),
    note="Runs on other data are under Comparison.",
)


def transformers_mlps(records: Records) -> Table | None:
    return of(records, SCOPE)
