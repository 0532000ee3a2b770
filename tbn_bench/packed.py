"""Deployable layers: a weight is its tile's bits and its scales, and nothing else.

pack_ replaces every binarized Linear / Conv by a layer holding two buffers, tile_bits and alphas. Where p > 1 divides the output
rows, its forward multiplies by the tile alone (1 / p of the products) and stores the result p times, scaled; elsewhere it
multiplies by the expanded weight. save and load move a packed network to a file (artifact.py) and back.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import artifact, bits
from tbn_bench.artifact import Artifact, ArtifactError, Weight
from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.kernels import _tile
from tbn_bench.kernels.tiled_linear.torch import copies, segments


@dataclass(frozen=True)
class PackRow:
    """One packed weight. how: "tile reuse", "segments" or "expanded"; the bytes are those of tile_bits and alphas."""

    name: str
    shape: tuple[int, ...]
    p: int
    tile_bytes: int
    alpha_bytes: int
    how: str


class _Packed(nn.Module):
    """Buffers: tile_bits (ceil(q / 8),) uint8 and alphas (k,) float32. `shape` is that of the weight it stands for.

    What forward multiplies by is derived from the bits at its first call: a native plan, which reads the bits, never makes it.
    """

    def __init__(self, layer: nn.Module, p: int, tile_bits: Tensor, alphas: Tensor):
        super().__init__()
        self.shape, self.p, self.groups = tuple(layer.weight.shape), p, getattr(layer, "groups", 1)
        self.reuses = _tile.aligned(self.shape[0], p, len(alphas), self.groups)
        linear = len(self.shape) == 2 and not self.reuses
        self.segment = _tile.segment(self.shape, p, len(alphas)) if linear else 0
        self.register_buffer("tile_bits", tile_bits)
        self.register_buffer("alphas", alphas)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.in_graph = False
        for name in ("factor", "row_scales"):
            self.register_buffer(name, None, persistent=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def expanded(self) -> Tensor:
        """The dense weight, in `shape`: tile repeated p times, times the scales."""
        return _tile.expand(self.tile_bits, self.alphas, self.shape, self.p, self.alphas.dtype)

    def _derived(self) -> tuple[Tensor, Tensor | None]:
        """From the bits: (tile, row scales) to reuse, (flat tile, None) for segments, or (weight, None)."""
        if not self.reuses and not self.segment:
            return self.expanded(), None
        tile = _tile.unpack(self.tile_bits, self.numel // self.p, self.alphas.dtype)
        if self.segment:
            return tile, None
        tile = tile.reshape(-1, *self.shape[1:])
        return tile, _tile.row_scales(self.alphas, self.shape[0]).reshape(self.p, -1, *[1] * (len(self.shape) - 2))

    def materialize_(self) -> None:
        """Derives what forward multiplies by, on the device of the bits; a second call does nothing."""
        if self.factor is None:
            self.factor, self.row_scales = self._derived()

    def unpack_in_forward_(self) -> None:
        """From now on forward derives what it needs in each call, so that an exported graph holds the bits and nothing derived."""
        self.in_graph, self.factor, self.row_scales = True, None, None

    def _factors(self) -> tuple[Tensor, Tensor | None]:
        if self.in_graph:
            return self._derived()
        self.materialize_()
        return self.factor, self.row_scales

    def weight_bytes(self) -> int:
        """Bytes of weights that one forward reads: the float tile with its row scales, or the expanded weight."""
        self.materialize_()
        read = [self.factor] if self.row_scales is None else [self.factor, self.row_scales]
        return sum(t.numel() * t.element_size() for t in read)


class PackedLinear(_Packed):
    """nn.Linear from bits. x: (..., in_features) -> (..., out_features)."""

    def forward(self, x: Tensor) -> Tensor:
        weight, scales = self._factors()
        if self.segment:
            return segments(x, weight, self.alphas, self.bias, self.shape, self.segment)
        if scales is None:
            return F.linear(x, weight, self.bias)
        return copies(F.linear(x, weight), scales, self.bias, -1)


class _PackedConv(_Packed):
    def __init__(self, layer: nn.Conv1d | nn.Conv2d, p: int, tile_bits: Tensor, alphas: Tensor):
        super().__init__(layer, p, tile_bits, alphas)
        self.stride, self.dilation, self.padding, self.padding_mode = (
            layer.stride, layer.dilation, layer.padding, layer.padding_mode,
        )  # fmt: skip
        self.pad_by_hand = layer._reversed_padding_repeated_twice if self.padding_mode != "zeros" else None

    def forward(self, x: Tensor) -> Tensor:
        weight, scales = self._factors()
        padding = self.padding
        if self.pad_by_hand is not None:
            x, padding = F.pad(x, self.pad_by_hand, mode=self.padding_mode), 0
        spatial = len(self.shape) - 2
        conv = (F.conv1d, F.conv2d)[spatial - 1]
        if scales is None:
            return conv(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return copies(conv(x, weight, None, self.stride, padding, self.dilation), scales, self.bias, -1 - spatial)


class PackedConv1d(_PackedConv):
    """nn.Conv1d from bits. x: (B, C, L) or (C, L)."""


class PackedConv2d(_PackedConv):
    """nn.Conv2d from bits. x: (B, C, H, W) or (C, H, W)."""


_KINDS = {nn.Linear: PackedLinear, nn.Conv1d: PackedConv1d, nn.Conv2d: PackedConv2d}


def _expand_(module: nn.Module) -> None:
    """Puts the computed weights in the place of their parametrizations.

    torch's remove_parametrizations deletes the property from a class that copies of the module share, and so breaks the others.
    """
    values = {attribute: getattr(module, attribute).detach().clone() for attribute in module.parametrizations}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for attribute, value in values.items():
        setattr(module, attribute, nn.Parameter(value, requires_grad=False))


def dense(model: nn.Module) -> nn.Module:
    """A copy of a binarized model with every parametrization replaced by the weight it computes: the plain path."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _expand_(module)
    return model


def pack_(model: nn.Module) -> list[PackRow]:
    """Replaces, in place, every binarized Linear, Conv1d and Conv2d of a trained model by its packed layer.

    nn.MultiheadAttention reads its projections' weights itself: they stay in it as bits, and expanded beside them. Weights that were
    one parameter share one pair of buffers. Raises ValueError for a model without binarized weights.
    """
    rows, made, stored = [], {}, {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in made:
            model.set_submodule(name, made[module])
            continue
        if not parametrize.is_parametrized(module):
            continue
        kind = _kind(module)
        parts = {}
        for attribute, chain in module.parametrizations.items():
            method, latent = chain[0], chain.original
            if id(latent) not in stored:
                stored[id(latent)] = _bits_and_scales(method, latent.detach())
            parts[attribute] = (method.p, *stored[id(latent)])
            groups = getattr(module, "groups", 1)
            reuses = kind is not None and _tile.aligned(latent.shape[0], method.p, method.num_scales(latent), groups)
            pieces = kind is PackedLinear and not reuses and _tile.segment(latent.shape, method.p, method.num_scales(latent))
            how = "tile reuse" if reuses else "segments" if pieces else "expanded"
            rows.append(_row(f"{name}.{attribute}".lstrip("."), method, latent, how))
        if kind is None:
            _expand_(module)
            for attribute, (p, tile_bits, alphas) in parts.items():
                _keep_bits(module, attribute, p, tile_bits, alphas)
        elif not name:
            raise ValueError(f"a bare {type(module).__name__} cannot be replaced in place; wrap it: nn.Sequential(layer)")
        else:
            made[module] = kind(module, *parts["weight"])
            model.set_submodule(name, made[module])
    if not rows:
        raise ValueError(f"{type(model).__name__} has no binarized weight inside; call binarize_ and train it first")
    _call_layers(model)
    return rows


def _call_layers(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # its fused path would read linear1.weight; this makes it call the layers


def _bits_and_scales(method: WeightBinarizer, latent: Tensor) -> tuple[Tensor, Tensor]:
    signs = method.signs(latent).to(torch.int8).cpu().numpy()
    return torch.from_numpy(bits.pack(signs)), method.scales(latent).detach().float().clone()


def _keep_bits(module: nn.Module, attribute: str, p: int, tile_bits: Tensor, alphas: Tensor) -> None:
    """Bits of a weight that its module must also have expanded; only the bits are state."""
    shape = tuple(getattr(module, attribute).shape)
    value = torch.from_numpy(artifact.dense_weight(tile_bits.cpu().numpy(), alphas.cpu().numpy(), shape, p))
    del module._parameters[attribute]
    module.register_buffer(attribute, value.to(tile_bits.device), persistent=False)
    module.register_buffer(f"{attribute}_tile_bits", tile_bits)
    module.register_buffer(f"{attribute}_alphas", alphas)
    module.packed_weights = {**getattr(module, "packed_weights", {}), attribute: (shape, p)}


def _kind(module: nn.Module) -> type[_Packed] | None:
    """The packed layer for module; None for attention, which reads its projections' weights itself."""
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None
    return next((made for known, made in _KINDS.items() if isinstance(module, known)), None)


def _row(name: str, method: WeightBinarizer, latent: Tensor, how: str) -> PackRow:
    tile_bytes = bits.packed_bytes(latent.numel() // method.p)
    return PackRow(name, tuple(latent.shape), method.p, tile_bytes, 4 * method.num_scales(latent), how)


def _weights(model: nn.Module) -> dict[str, Weight]:
    """Every packed weight of a model, by the name its full-precision weight has."""
    found = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, _Packed):
            found[f"{prefix}weight"] = Weight(f"{prefix}tile_bits", f"{prefix}alphas", module.shape, module.p)
        for attribute, (shape, p) in getattr(module, "packed_weights", {}).items():
            stem = f"{prefix}{attribute}"
            found[stem] = Weight(f"{stem}_tile_bits", f"{stem}_alphas", shape, p)
    return found


def to_artifact(model: nn.Module, config: dict[str, Any] | None = None, commit: str | None = None) -> Artifact:
    """The content of the packed file of a packed (or full-precision) model: its state without training counters, shared tensors once."""
    tensors: dict[str, np.ndarray] = {}
    aliases, seen = {}, {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        where = (value.data_ptr(), value.shape, value.dtype) if value.numel() else name
        if where in seen:
            aliases[name] = seen[where]
            continue
        seen[where] = name
        tensors[name] = value.detach().cpu().contiguous().numpy()
    weights = {
        name: Weight(aliases.get(w.tile, w.tile), aliases.get(w.alphas, w.alphas), w.shape, w.p)
        for name, w in _weights(model).items()
    }
    return Artifact(tensors, weights, aliases, config, commit)


def save(model: nn.Module, path: Path, config: dict[str, Any] | None = None, commit: str | None = None) -> int:
    """Writes a packed model as a packed file (artifact.py) and returns its bytes. Raises ArtifactError."""
    return artifact.write(Path(path), to_artifact(model, config, commit))


def load_(model: nn.Module, path: Path | Artifact) -> nn.Module:
    """Turns a full-precision model of the same architecture, in place, into the packed network of a file; in eval mode.

    The model may be on the meta device: dense weights are then never made. Raises ArtifactError where file and model do not fit.
    """
    content = path if isinstance(path, Artifact) else artifact.read(Path(path))
    state = {k: torch.from_numpy(np.array(v)) for k, v in content.tensors.items()}
    state |= {name: state[target] for name, target in content.aliases.items()}
    try:
        for name, weight in content.weights.items():
            _install(model, name, weight, state)
    except AttributeError as error:
        raise ArtifactError(f"the file does not belong to this {type(model).__name__}: {error}") from error
    _call_layers(model)
    state |= {k: torch.zeros((), dtype=torch.int64) for k in model.state_dict() if k.endswith("num_batches_tracked")}
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"the file does not belong to this {type(model).__name__}: {error}") from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _install(model: nn.Module, name: str, weight: Weight, state: dict[str, Tensor]) -> None:
    """Puts one packed weight into its module, replacing the module by its packed form where there is one."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, _Packed):  # a second name of a layer that is used twice
        return
    tile_bits, alphas = state[weight.tile], state[weight.alphas]
    if tuple(getattr(module, attribute).shape) != weight.shape:
        raise ArtifactError(
            f"{name} is {weight.shape} in the file and {tuple(getattr(module, attribute).shape)} in {type(model).__name__}"
        )
    kind = _kind(module)
    if kind is None:
        _keep_bits(module, attribute, weight.p, tile_bits, alphas)
        return
    layer = kind(module, weight.p, tile_bits, alphas)
    for other, candidate in list(model.named_modules(remove_duplicate=False)):
        if candidate is module:
            model.set_submodule(other, layer)
