"""fuse_: faster training behind tiled layers, in place; describe: which layer got what, and why."""

from dataclasses import dataclass

from torch import nn

from tbn_bench.layers.fused import modules
from tbn_bench.layers.fused.modules import FusedBatchNorm2d, FusedConv2d
from tbn_bench.layers.reuse import ReuseConv2d


@dataclass(frozen=True)
class FusedRow:
    """A convolution or batch norm. fused: whether fuse_ changed it. what: it did last, or why."""

    name: str
    fused: bool
    what: str


def fuse_(model: nn.Module) -> list[FusedRow]:
    """Fuses batch norm, residual sum and ReLU behind tiled convolutions, in training.

    To be called after binarize_. Parameters, buffers and their names stay the same, and so does
    evaluation. Outputs, gradients and running statistics are those of the plain network up to the
    order of floating-point sums (layers/fused/norm.py). A model may be fused twice.

    Returns a row per tiled convolution and nn.BatchNorm2d; call `describe` after a training step to
    see which implementation each of them used.
    """
    for module in model.modules():
        is_fused = isinstance(module, FusedBatchNorm2d | FusedConv2d)
        if not is_fused and not modules.why_not_fused(module):
            modules.fuse_module_(module)
    return describe(model)


def unfuse_(model: nn.Module) -> None:
    """Takes fuse_ back, in place."""
    for module in model.modules():
        modules.unfuse_module_(module)


def describe(model: nn.Module) -> list[FusedRow]:
    """A row per tiled convolution and nn.BatchNorm2d: what it did in its last training step."""
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, FusedBatchNorm2d | FusedConv2d):
            what = module.fused.text or "has not run in training yet"
            rows.append(FusedRow(name, True, what))
        elif isinstance(module, ReuseConv2d | nn.BatchNorm2d):
            what = modules.why_not_fused(module) or "fuse_ was not called"
            rows.append(FusedRow(name, False, f"plain: {what}"))
    return rows
