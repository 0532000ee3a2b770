"""What a network costs, per layer and in total: weights, stored bits, multiply-adds, BitOps.

Stored bits
    A binarized weight takes the tensors of its form (format/form.py), as the plan counts them; a
    kept weight the bits of its type. Biases, normalisation and every other parameter or buffer that
    inference needs (running statistics, thresholds of activations) are counted apart, in the bits
    of their type. Shared tensors count once. bits_per_weight = stored bits of weights / weights.
    stored_bytes rounds each tensor up to whole bytes, as a packed file does; padding_bits is the
    difference.

Multiply-adds
    macs counts weight layers only. activation_macs counts products of activations with each other:
    attention's two products, PointNet's transforms. No method makes these cheaper.
    distinct_macs counts once a dot product that p copies share (aligned), or that they compute from
    shared parts (hadamard, shifted); of columns it counts the products with sums of p inputs. A
    layer of two factors (rank) counts the multiply-adds of both.
    additions are those that a layout needs besides its multiply-adds in our implementation: p per
    output of hadamard (a product with a p x p matrix of signs; a fast transform would need log2 p),
    p - 1 for each sum of p inputs of columns, none for the others.

BitOps, by definition
    bitops_fp64    64 per full-precision MAC, 1 per binary-weight MAC (Bi-Real Net's convention; it
                   reproduces the paper's 35.03 G for ResNet-18)
    bitops_wxa     MACs * weight bits * activation bits
    bitops_wxa_distinct   the same over distinct MACs
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.convert.macs import MacCounter, count_macs
from tbn_bench.convert.plan import Plan, PlanRow
from tbn_bench.derived import place
from tbn_bench.format import bits
from tbn_bench.records import notebook

FLOAT_MAC_BITOPS = 64  # of a full-precision multiply-add, by Bi-Real Net's convention


@dataclass(frozen=True)
class LayerCost:
    """One weight: its plan row and its multiply-adds for one input sample.

    position_factor: positions at which a shifted layer computes its tile, over its outputs.
    elementwise: whether the weight gradient is computed at full cost. inputs: values that the layer
    reads of one sample.
    """

    row: PlanRow
    macs: int
    position_factor: float = 1.0
    elementwise: bool = False
    inputs: int = 0

    @property
    def additions(self) -> int:
        """Of one sample, besides the multiply-adds."""
        row = self.row
        p = row.p
        if not row.reuse or p == 1:
            return 0
        if row.copies == "hadamard":
            columns = prod(row.shape[1:])
            outputs = self.macs // columns
            return p * outputs
        if row.copies == "columns":
            sums = self.inputs // p
            return sums * (p - 1)
        return 0

    @property
    def distinct_macs(self) -> int:
        row = self.row
        if not row.reuse:
            return self.macs
        if row.rank:
            positions = self.macs // row.numel
            rows, *others = row.shape
            weights = row.rank * (rows + prod(others))  # of both factors
            return positions * weights
        computed = self.macs * self.position_factor
        return round(computed / row.p)

    @property
    def training_flop(self) -> int:
        """Of one sample: two per multiply-add of the forward pass and of both gradients.

        The elementwise rule (the default of tbn) computes the weight gradient at full cost.
        """
        distinct = self.distinct_macs
        forward = distinct
        input_gradient = distinct
        weight_gradient = self.macs if self.elementwise else distinct
        return 2 * (forward + input_gradient + weight_gradient)

    @property
    def bits_of_a_value(self) -> int:
        """1, 2 for ternary, 32 for a kept weight."""
        if not self.row.binarized:
            return 32
        return 2 if self.row.code == "ternary" else 1

    @property
    def fp64_bitops(self) -> int:
        if self.row.binarized:
            return self.macs
        return FLOAT_MAC_BITOPS * self.macs

    @property
    def mac_bits(self) -> int:
        """Bit operations of one multiply-add: bits of a weight * bits of an activation."""
        return self.bits_of_a_value * self.row.activation_bits


@dataclass(frozen=True)
class SideBits:
    """Bits of everything that is stored besides the weights.

    norm: normalisation with its running statistics.
    """

    bias: int = 0
    norm: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return self.bias + self.norm + self.other


@dataclass(frozen=True)
class Cost:
    """Totals of a network.

    layers: one per weight. side: all other stored tensors. activation_macs: multiply-adds of
    activations with each other, for one sample.
    """

    layers: list[LayerCost]
    side: SideBits
    activation_macs: int

    @property
    def rows(self) -> list[PlanRow]:
        return [layer.row for layer in self.layers]

    @property
    def weights(self) -> int:
        return sum(row.numel for row in self.rows)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def training_flop(self) -> int:
        """Floating-point operations of one training sample in the weight layers."""
        return sum(layer.training_flop for layer in self.layers)

    @property
    def stored_bits_weights(self) -> int:
        return sum(row.stored_bits for row in self.rows)

    @property
    def tile_bits(self) -> int:
        binarized = [row for row in self.rows if row.binarized]
        return sum(row.weight_bits for row in binarized)

    @property
    def alpha_bits(self) -> int:
        return sum(row.alpha_bits for row in self.rows)

    @property
    def codebook_bits(self) -> int:
        return sum(row.codebook_bits for row in self.rows)

    @property
    def stored_bits(self) -> int:
        return self.stored_bits_weights + self.side.total

    @property
    def stored_bytes(self) -> int:
        coded = 0
        for row in self.rows:
            coded += bits.packed_bytes(row.weight_bits)
            coded += bits.packed_bytes(row.codebook_bits)
        others = self.alpha_bits + self.side.total
        return coded + others // 8

    @property
    def padding_bits(self) -> int:
        return 8 * self.stored_bytes - self.stored_bits

    @property
    def bits_per_binarized_weight(self) -> float:
        """32 where no weight is binarized."""
        binarized = [row for row in self.rows if row.binarized]
        if not binarized:
            return 32.0
        stored = sum(row.stored_bits for row in binarized)
        weights = sum(row.numel for row in binarized)
        return stored / weights

    def __str__(self) -> str:
        lines = []
        shown = self._shown()
        for name, value in shown:
            lines.append(f"{name:<26}{value:>18}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = ("cost", "")
        rows = self._shown()
        return notebook.table(head, rows)

    def _shown(self) -> list[tuple[str, str]]:
        found = []
        summary = self.summary()
        for name, value in summary.items():
            text = f"{value:,.4f}"
            if isinstance(value, int):
                text = f"{value:,}"
            pair = (name, text)
            found.append(pair)
        return found

    def summary(self) -> dict[str, int | float]:
        """The cost fields of a run's summary."""
        layers = self.layers
        return {
            "weights": self.weights,
            "stored_bits": self.stored_bits,
            "stored_bits_weights": self.stored_bits_weights,
            "tile_bits": self.tile_bits,
            "alpha_bits": self.alpha_bits,
            "codebook_bits": self.codebook_bits,
            "padding_bits": self.padding_bits,
            "bias_bits": self.side.bias,
            "norm_bits": self.side.norm,
            "other_bits": self.side.other,
            "stored_bytes": self.stored_bytes,
            "bits_per_weight": self.stored_bits_weights / self.weights,
            "bits_per_binarized_weight": self.bits_per_binarized_weight,
            "macs": self.macs,
            "distinct_macs": sum(layer.distinct_macs for layer in layers),
            "activation_macs": self.activation_macs,
            "additions": sum(layer.additions for layer in layers),
            "bitops_fp64": sum(layer.fp64_bitops for layer in layers),
            "bitops_wxa": sum(layer.macs * layer.mac_bits for layer in layers),
            "bitops_wxa_distinct": sum(layer.distinct_macs * layer.mac_bits for layer in layers),
        }


def cost(model: nn.Module, plan: Plan, in_shape: Sequence[int]) -> Cost:
    """Cost of a model that binarize_ returned `plan` for, on one input of in_shape: (C, H, W)."""
    counter = count_macs(model, in_shape)
    elementwise = _elementwise_weights(model)
    layers = []
    weights: set[str] = set()
    for row in plan.rows:
        first = row.names[0]
        layer = _layer_cost(row, counter, first in elementwise)
        layers.append(layer)
        weights.update(row.names)
    side = _side_bits(model, weights)
    return Cost(layers, side, counter.activation_macs)


def _layer_cost(row: PlanRow, counter: MacCounter, elementwise: bool) -> LayerCost:
    macs = 0
    at_positions = 0.0
    inputs = 0
    for name in row.names:
        own_macs = counter.macs[name]
        own_factor = counter.position_factors.get(name, 1.0)
        macs += own_macs
        at_positions += own_macs * own_factor
        inputs += counter.inputs[name]
    factor = at_positions / macs if macs else 1.0
    return LayerCost(row, macs, factor, elementwise, inputs)


def _elementwise_weights(model: nn.Module) -> set[str]:
    """Names of weights whose gradient is computed at full cost though their products are not."""
    found = set()
    for name, module in model.named_modules():
        if not isinstance(module, parametrize.ParametrizationList):
            continue
        method = module.get_submodule("0")
        if getattr(method, "elementwise", False):
            parent, _, attribute = name.rpartition(".")
            layer = parent.removesuffix("parametrizations")
            found.add(f"{layer}{attribute}")
    return found


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class _Stored:
    """A parameter or persistent buffer of a module. name: qualified; key: within the module."""

    name: str
    key: str
    tensor: Tensor
    module: nn.Module

    @property
    def only_for_training(self) -> bool:
        """A counter or a schedule."""
        named = getattr(self.module, "training_only", ())
        return self.key == "num_batches_tracked" or self.key in named

    @property
    def bits(self) -> int:
        numel = self.tensor.numel()
        size = self.tensor.element_size()
        return 8 * numel * size


def _side_bits(model: nn.Module, weights: set[str]) -> SideBits:
    """Bits of all stored tensors except the weights of these names.

    A tensor that several modules share counts once, and not at all where it is a weight.
    """
    stored = list(_stored_tensors(model))
    seen = {place(entry.tensor) for entry in stored if entry.name in weights}
    bias = norm = other = 0
    for entry in stored:
        where = place(entry.tensor)
        if entry.only_for_training or where in seen:
            continue
        seen.add(where)
        if isinstance(entry.module, _NORMS):
            norm += entry.bits
        elif "bias" in entry.key:
            bias += entry.bits
        else:
            other += entry.bits
    return SideBits(bias, norm, other)


def _stored_tensors(model: nn.Module) -> Iterator[_Stored]:
    """All parameters and persistent buffers but those of weight binarizers.

    A binarizer's latent weights, and the parameters that train them, are not stored.
    """
    latent = _modules_of_binarizers(model)
    for prefix, module in model.named_modules():
        if module in latent:
            continue
        transient = module._non_persistent_buffers_set
        own: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
        for key, tensor in own.items():
            if tensor is None or key in transient:
                continue
            name = f"{prefix}.{key}".lstrip(".")
            yield _Stored(name, key, tensor, module)


def _modules_of_binarizers(model: nn.Module) -> set[nn.Module]:
    found: set[nn.Module] = set()
    for module in model.modules():
        if not isinstance(module, parametrize.ParametrizationList):
            continue
        first = module.get_submodule("0")
        if isinstance(first, WeightBinarizer):
            found.update(module.modules())
    return found
