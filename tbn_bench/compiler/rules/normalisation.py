"""Batch and layer normalisation."""

from torch import nn

from tbn_bench.compiler.graph import BatchNorm, LayerNorm, Operation, Unsupported
from tbn_bench.compiler.names import Call, lowers


@lowers(nn.BatchNorm1d, nn.BatchNorm2d)
def batch_norm(call: Call) -> Operation:
    if call.module.running_mean is None:
        raise Unsupported("batch normalisation without running statistics")
    return BatchNorm(call.x, call.module)


@lowers(nn.LayerNorm)
def layer_norm(call: Call) -> Operation:
    return LayerNorm(call.x, call.module)
