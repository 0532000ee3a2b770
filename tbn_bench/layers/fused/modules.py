"""The modules that make fused operations: a tiled convolution, and batch norm.

Parameters, buffers and their names are those of the plain modules. In evaluation, under
torch.compile and while torch.fx traces, both do what the plain modules do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import native
from tbn_bench.layers.fused import weights
from tbn_bench.layers.fused.conv import can_mix, full_gradient, parts_of, tile_conv
from tbn_bench.layers.fused.norm import why_not_native
from tbn_bench.layers.fused.pending import (
    Affine,
    Normalized,
    Note,
    Statistics,
    TileOutput,
    settled,
)
from tbn_bench.layers.fused.weights import KeptScales
from tbn_bench.layers.mixed_copies import Geometry
from tbn_bench.layers.reuse import ReuseConv2d


def _is_plain(x: Any) -> bool:
    """Whether the numbers are not there: fusion waits for another pass."""
    return torch.compiler.is_compiling() or isinstance(x, torch.fx.Proxy)


class FusedConv2d(ReuseConv2d):
    """A tiled convolution that hands its tile's output to batch norm.

    x: (B, C, H, W) -> TileOutput for (B, C_out, H_out, W_out).
    """

    fused: Note
    kept_scales: KeptScales

    def forward(self, input: Any) -> Any:  # torch's name: callers may give it by keyword
        x: Tensor = settled(input)
        is_fusing = self.training and x.dim() == 4 and not x.is_meta
        if not is_fusing or _is_plain(x) or not parametrize.is_parametrized(self, "weight"):
            return super().forward(x)

        tile, scales, latent, method = weights.read(self, self.kept_scales)
        x = self._cast_for_autocast(x)
        x, padding = self._pad(x)
        geometry = Geometry(self.stride, padding, self.dilation)
        groups = 1 if method.copies is None else method.p
        parts = parts_of(x, tile, geometry, groups)
        self.fused.write(str(parts))
        if groups > 1:
            mixes = can_mix(tile, groups, parts)
            t = tile_conv(x, tile, geometry, groups, parts, mixes)
            return TileOutput(t, scales, 1, None, self.fused, groups, is_mixed=mixes)

        t = tile_conv(x, tile, geometry, groups, parts)
        added = None
        if method.elementwise:
            added = full_gradient(t, x, latent, scales, geometry, parts)
        return TileOutput(t, scales, method.p, added, self.fused)


class FusedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that waits for a residual sum and ReLU, in training.

    x: (B, C, H, W) or TileOutput -> Normalized for (B, C, H, W).
    """

    fused: Note

    def forward(self, input: Any) -> Any:
        if not self.training or _is_plain(input):
            return self._plainly(input)

        source = self._source(input)
        if source is None:
            return self._plainly(input)

        reason = why_not_native(source.t, source.p, source.mixed)
        level = None if reason else native.level()
        momentum = self._momentum()
        statistics = Statistics(self.running_mean, self.running_var, momentum)
        affine = Affine(self.weight, self.bias, self.eps)
        return Normalized(source, affine, statistics, level, self.fused)

    def _plainly(self, x: Any) -> Tensor:
        out: Tensor = super().forward(settled(x))
        return out

    def _source(self, x: Any) -> TileOutput | None:
        """The copies to normalise; None where torch's batch norm must serve."""
        if isinstance(x, TileOutput):
            if x.t.numel() > x.t.shape[1]:
                return x

            self.fused.write("plain: one value per channel")  # torch raises its error
            return None

        x = settled(x)
        reason = why_not_native(x, 1)
        if not reason and x.numel() <= x.shape[1]:
            reason = "one value per channel"
        if reason:
            self.fused.write(f"plain: {reason}")
            return None

        return TileOutput(x, None, 1, None, Note())

    def _momentum(self) -> float:
        """The weight of this batch in the running statistics; counts it, as torch does."""
        if self.num_batches_tracked is None:
            return 0.0 if self.momentum is None else self.momentum

        self.num_batches_tracked.add_(1)
        if self.momentum is not None:
            return self.momentum
        return 1 / float(self.num_batches_tracked)


def why_not_fused(module: nn.Module) -> str:
    """Why a module stays as it is. "" where it can be fused."""
    if type(module) is nn.BatchNorm2d:
        return ""

    if not isinstance(module, ReuseConv2d):
        return "not a tiled convolution or nn.BatchNorm2d"

    if not parametrize.is_parametrized(module, "weight"):
        return "its weight is not binarized"

    chain: Any = module.get_submodule("parametrizations.weight")
    method = chain[0]
    if len(chain) != 1 or not method.reuse or method.factored:
        return "its weight is no single tile"
    if method.copies is not None and method.copies.kind != "hadamard":
        return f"{method.copies.kind} copies differ from channel to channel"
    if method.copies is not None and method.elementwise:
        return "hadamard copies with the elementwise gradient need the full weight gradient"
    if module.bias is not None:
        return "it has a bias"
    if type(module).__mro__[1] is not ReuseConv2d:
        return "its input is binarized"
    return ""


def fuse_module_(module: Any) -> None:
    """Swaps the class of a module that why_not_fused lets pass, in place."""
    module.fused = Note()
    if type(module) is nn.BatchNorm2d:
        module.__class__ = FusedBatchNorm2d
        return
    module.kept_scales = KeptScales()
    _set_base_(module, FusedConv2d)
    chain = module.get_submodule("parametrizations.weight")
    if not chain[0].elementwise:
        weights.store_by_channel_(chain.original)


def unfuse_module_(module: Any) -> None:
    """Takes fuse_module_ back, in place; does nothing to other modules."""
    if isinstance(module, FusedBatchNorm2d):
        torchs: Any = nn.BatchNorm2d
        module.__class__ = torchs
        del module.fused
    elif isinstance(module, FusedConv2d):
        _set_base_(module, ReuseConv2d)
        del module.fused
        del module.kept_scales


def _set_base_(module: Any, base: type[nn.Module]) -> None:
    """Gives a parametrized module's class another base. Copies of the module keep the old one."""
    kind = type(module)
    members = {}
    for name, member in vars(kind).items():
        if name not in ("__dict__", "__weakref__"):
            members[name] = member

    module.__class__ = type(kind.__name__, (base,), members)
