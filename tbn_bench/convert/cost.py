"""What a network costs, per layer and in total: weights, stored bits, bits per weight, MACs, distinct MACs, BitOps.

Stored bits of a binarized weight: the tensors of its form (form.py: values, scales, offsets, codebook), as the plan counts them; of
a kept weight: 32 N (16 N of a half-precision one). Biases, normalisation and whatever else has parameters (running statistics and the thresholds of activations too:
what inference needs) are listed apart, in the bits of their type; shared tensors count once. bits_per_weight = stored bits of weights / weights. stored_bytes rounds each tensor
up to whole bytes, padding_bits being the difference, so it is what a packed file's tensors weigh.

MACs count the multiply-adds of weight layers only (attention's products of activations are not weights). distinct_macs counts a dot
product that p copies share (aligned), or compute from shared parts (hadamard, shifted), once; of columns the products with sums of p inputs.
A layer of two factors (rank) counts the multiply-adds of both.

additions are what a layout asks for beside its multiply-adds, as our code computes it: p per output of hadamard (a product with a p x p
matrix of signs; a fast transform would need log2 p), p - 1 for each sum of p inputs of columns, none elsewhere.

BitOps, by definition:
    bitops_fp64    64 per full-precision MAC, 1 per binary-weight MAC (Bi-Real Net's convention; it reproduces the paper's 35.03 G for ResNet-18)
    bitops_wxa     MACs * weight bits * activation bits
    bitops_wxa_distinct   the same over distinct MACs
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.convert.binarize import Plan, PlanRow
from tbn_bench.derived import place
from tbn_bench.format import bits
from tbn_bench.format.layouts import Copies


@dataclass(frozen=True)
class LayerCost:
    """One weight: its plan row and its multiply-adds for one input sample; positions_factor: how many more positions than outputs
    a shifted layer computes its tile at; inputs: values that it reads of one sample."""

    row: PlanRow
    macs: int
    positions_factor: float = 1.0
    elementwise: bool = False
    inputs: int = 0

    @property
    def additions(self) -> int:
        """Of one sample, beside the multiply-adds."""
        p = self.row.p
        if not self.row.reuse or p == 1:
            return 0
        if self.row.copies == "hadamard":
            outputs = self.macs // prod(self.row.shape[1:])
            return p * outputs
        if self.row.copies == "columns":
            return self.inputs // p * (p - 1)
        return 0

    @property
    def distinct_macs(self) -> int:
        if self.row.rank and self.row.reuse:
            rows, columns = self.row.shape[0], prod(self.row.shape[1:])
            positions = self.macs // self.row.numel
            return positions * self.row.rank * (rows + columns)
        return (
            round(self.macs * self.positions_factor / self.row.p) if self.row.reuse else self.macs
        )

    @property
    def training_flop(self) -> int:
        """Of one sample: two per multiply-add of the forward pass and of the gradients of inputs and weight.

        The elementwise rule (tbn's default) computes the weight gradient at full cost.
        """
        weight_gradient = self.macs if self.elementwise else self.distinct_macs
        return 2 * (2 * self.distinct_macs + weight_gradient)

    @property
    def weight_bits(self) -> int:
        """Bits of one value: 1, 2 for ternary, 32."""
        return (2 if self.row.code == "ternary" else 1) if self.row.binarized else 32


@dataclass(frozen=True)
class Cost:
    """Totals of a network; `layers` has the parts."""

    layers: list[LayerCost]
    bias_bits: int
    norm_bits: int
    other_bits: int

    @property
    def weights(self) -> int:
        return sum(layer.row.numel for layer in self.layers)

    @property
    def training_flop(self) -> int:
        """Floating-point operations of one training sample in the weight layers."""
        return sum(layer.training_flop for layer in self.layers)

    @property
    def stored_bits_weights(self) -> int:
        return sum(layer.row.stored_bits for layer in self.layers)

    @property
    def tile_bits(self) -> int:
        return sum(layer.row.weight_bits for layer in self.layers if layer.row.binarized)

    @property
    def alpha_bits(self) -> int:
        return sum(layer.row.alpha_bits for layer in self.layers)

    @property
    def stored_bits(self) -> int:
        return self.stored_bits_weights + self.bias_bits + self.norm_bits + self.other_bits

    @property
    def stored_bytes(self) -> int:
        coded = sum(
            bits.packed_bytes(n)
            for layer in self.layers
            for n in (layer.row.weight_bits, layer.row.codebook_bits)
        )
        return coded + (self.alpha_bits + self.bias_bits + self.norm_bits + self.other_bits) // 8

    @property
    def codebook_bits(self) -> int:
        return sum(layer.row.codebook_bits for layer in self.layers)

    @property
    def padding_bits(self) -> int:
        return 8 * self.stored_bytes - self.stored_bits

    def summary(self) -> dict[str, int | float]:
        """The cost fields of a run's summary."""
        binary = [layer.row for layer in self.layers if layer.row.binarized]
        macs = sum(layer.macs for layer in self.layers)
        distinct = sum(layer.distinct_macs for layer in self.layers)
        bit_macs = [(layer, layer.weight_bits * layer.row.activation_bits) for layer in self.layers]
        return {
            "weights": self.weights,
            "stored_bits": self.stored_bits,
            "stored_bits_weights": self.stored_bits_weights,
            "tile_bits": self.tile_bits,
            "alpha_bits": self.alpha_bits,
            "codebook_bits": self.codebook_bits,
            "padding_bits": self.padding_bits,
            "bias_bits": self.bias_bits,
            "norm_bits": self.norm_bits,
            "other_bits": self.other_bits,
            "stored_bytes": self.stored_bytes,
            "bits_per_weight": self.stored_bits_weights / self.weights,
            "bits_per_binarized_weight": (
                sum(r.stored_bits for r in binary) / sum(r.numel for r in binary) if binary else 32.0
            ),
            "macs": macs,
            "distinct_macs": distinct,
            "additions": sum(layer.additions for layer in self.layers),
            "bitops_fp64": sum(layer.macs * (1 if layer.row.binarized else 64) for layer in self.layers),
            "bitops_wxa": sum(layer.macs * b for layer, b in bit_macs),
            "bitops_wxa_distinct": sum(layer.distinct_macs * b for layer, b in bit_macs),
        }  # fmt: skip


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's parameters and persistent buffers, by attribute."""
    buffers = {
        k: b for k, b in module._buffers.items() if k not in module._non_persistent_buffers_set
    }
    return [(k, v) for k, v in (*module._parameters.items(), *buffers.items()) if v is not None]


def _of_binarizers(model: nn.Module) -> set[nn.Module]:
    """Modules that hold latent weights and what trains them: they are not stored."""
    found: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(
            module[0], WeightBinarizer
        ):
            found.update(module.modules())
    return found


def _side_bits(model: nn.Module, weight_names: set[str]) -> tuple[int, int, int]:
    """What is stored beside the weights: (biases of weight layers, normalisation with running statistics, the rest).

    A tensor that several modules share is counted once, and not at all where it is a weight that is kept.
    """
    bias = norm = other = 0
    latent = _of_binarizers(model)
    named: list[tuple[str, str, Tensor, nn.Module]] = []
    for prefix, module in model.named_modules():
        if module not in latent:
            named += [
                (f"{prefix}.{key}".lstrip("."), key, value, module) for key, value in _own(module)
            ]
    seen = {place(value) for name, _, value, _ in named if name in weight_names}
    for _, key, value, module in named:
        if key == "num_batches_tracked" or key in getattr(module, "training_only", ()):
            continue  # a training counter or schedule
        if place(value) in seen:
            continue
        seen.add(place(value))
        size = 8 * value.numel() * value.element_size()
        if isinstance(module, _NORMS):
            norm += size
        elif "bias" in key:
            bias += size
        else:
            other += size
    return bias, norm, other


def cost(model: nn.Module, plan: Plan, in_shape: Sequence[int]) -> Cost:
    """Cost of a model that binarize_ returned `plan` for, on one input of in_shape: (C, H, W)."""
    macs, factors, inputs = _macs(model, in_shape)
    names = {name for row in plan.rows for name in row.name.split(" = ")}
    elementwise = _elementwise(model)
    layers = []
    for row in plan.rows:
        users = row.name.split(" = ")
        count = sum(macs.get(name, 0) for name in users)
        at_positions = sum(macs.get(name, 0) * factors.get(name, 1.0) for name in users)
        factor = at_positions / count if count else 1.0
        read = sum(inputs.get(name, 0) for name in users)
        layers.append(LayerCost(row, count, factor, users[0] in elementwise, read))
    return Cost(layers, *_side_bits(model, names))


def _positions_factor(module: nn.Module, x: Tensor, out: Tensor, reach: int) -> float:
    """Positions at which a shifted layer computes its tile (stride 1, a margin for the shifts) over its output positions."""
    grown = zip(x.shape[2:], module.padding, module.dilation, module.kernel_size, strict=True)
    positions = prod(n + 2 * p - d * (k - 2 * reach - 1) for n, p, d, k in grown)
    return positions / prod(out.shape[2:])


def _macs(
    model: nn.Module, in_shape: Sequence[int]
) -> tuple[dict[str, int], dict[str, float], dict[str, int]]:
    """Multiply-adds per weight for one sample, by one forward pass with hooks; the positions factors of shifted layers; the
    values that each Linear or convolution reads."""
    found: dict[str, int] = {}
    inputs: dict[str, int] = {}
    factors: dict[str, float] = {}
    handles = []

    def add(name: str, count: int) -> None:
        found[name] = found.get(name, 0) + count

    def hook(name: str):
        def count(
            module: nn.Module, args: tuple[Any, ...], given: dict[str, Any], out: Tensor
        ) -> None:
            prefix = f"{name}." if name else ""
            called = list(inspect.signature(module.forward).bind(*args, **given).arguments.values())
            if not isinstance(module, nn.MultiheadAttention):
                inputs[f"{prefix}weight"] = inputs.get(f"{prefix}weight", 0) + called[0].numel()
            if isinstance(module, nn.MultiheadAttention):
                query, key, value = called[:3]
                e, b = module.embed_dim, 1
                if module._qkv_same_embed_dim:
                    add(
                        f"{prefix}in_proj_weight",
                        b * e * (query.numel() + key.numel() + value.numel()),
                    )
                else:
                    for k, source in zip("qkv", called[:3], strict=True):
                        add(f"{prefix}{k}_proj_weight", e * source.numel())
                add(f"{prefix}out_proj.weight", e * query.numel())
            elif isinstance(module, nn.Linear):
                add(f"{prefix}weight", out.numel() * module.in_features)
            else:
                copies = _copies(module)
                shape = module.weight.shape if copies is None else copies.shape
                add(f"{prefix}weight", out.numel() * prod(shape[1:]))
                if copies is not None and copies.kind == "shifted":
                    factors[f"{prefix}weight"] = _positions_factor(
                        module, called[0], out, copies.reach
                    )

        return count

    inside_attention = {
        id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)
    }
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.MultiheadAttention | nn.Linear | nn.Conv1d | nn.Conv2d)
            and id(module) not in inside_attention
        ):
            handles.append(module.register_forward_hook(hook(name), with_kwargs=True))
    modes = {module: module.training for module in model.modules()}
    first = next(model.parameters())
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *in_shape, device=first.device, dtype=first.dtype))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return found, factors, inputs


def _elementwise(model: nn.Module) -> set[str]:
    """Names of weights whose gradient is computed at full cost though their copies are not."""
    found = set()
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for attribute, chain in module.parametrizations.items():
                if getattr(chain[0], "elementwise", False):
                    found.add(f"{name}.{attribute}".lstrip("."))
    return found


def _copies(module: nn.Module) -> Copies | None:
    return (
        module.parametrizations.weight[0].copies
        if parametrize.is_parametrized(module, "weight")
        else None
    )
