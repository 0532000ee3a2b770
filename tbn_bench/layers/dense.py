"""The dense weight of a stored form (format/form.py), by torch operations on the bits' device."""

import torch
from torch import Tensor

from tbn_bench import tiling
from tbn_bench.format.coding import KERNEL, TRITS
from tbn_bench.format.form import Form
from tbn_bench.kernels import _tile


def dense_weight(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The float32 weight, in form.weight_shape: Form.dense by torch operations alone."""
    if form.code == "low_rank":
        return _product(form, tensors)
    copies = form.copies
    stored = _values(form, tensors)
    values = stored.repeat(form.p) if copies is None else tiling.lay_out(stored, copies)
    runs = values.reshape(max(1, form.scales), -1)
    if form.scales:
        runs = runs * float_scales(form, tensors["alphas"])[:, None]
    if form.offsets:
        runs = runs + tensors["offsets"][:, None]
    weight = runs.reshape(form.shape)
    return weight if copies is None else tiling.enlarged(weight, copies)


def float_scales(form: Form, alphas: Tensor) -> Tensor:
    """The stored scales as floating-point numbers: (k,)."""
    return torch.exp2(alphas.float()) if form.exponents else alphas


def factor_signs(form: Form, tile_bits: Tensor) -> tuple[Tensor, Tensor]:
    """Of code low_rank: U: (rows, rank) and V: (rank, *shape[1:]), +-1."""
    first, second = form.factor_sizes
    signs = _tile.unpack(tile_bits, first + second)
    left = signs[:first].reshape(form.shape[0], form.rank)
    right = signs[first:].reshape(form.rank, *form.shape[1:])
    return left, right


def factor_scales(form: Form, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of code low_rank: u: (rows,), m: (rank,), v: (C_in,)."""
    u, m, v = alphas.split([form.shape[0], form.rank, form.shape[1]])
    return u, m, v


def _values(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The stored values, not of code low_rank: (q,) float32."""
    data = tensors["tile"]
    if form.code == "ternary":
        powers = torch.tensor([3**i for i in range(TRITS)], device=data.device)
        digits = data.long()[:, None] // powers % 3
        return (digits - 1).reshape(-1)[: form.q].float()
    if form.code == "codebook":
        return _codebook_values(form, data, tensors["codebook"])
    return _tile.unpack(data, form.q)


def _codebook_values(form: Form, data: Tensor, codebook: Tensor) -> Tensor:
    kernels = form.numel // KERNEL
    width = form.index_bits
    places = torch.tensor([1 << i for i in range(width)], device=data.device)
    digits = _tile.unpack(data, kernels * width) > 0
    indices = (digits.reshape(kernels, width) * places).sum(1)
    entries = _tile.unpack(codebook, KERNEL << width).reshape(-1, KERNEL)
    return entries[indices].reshape(-1)


def _product(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The dense weight of two factors, by form.py's rule."""
    left, right = (signs.double() for signs in factor_signs(form, tensors["tile"]))
    u, m, v = (scales.double() for scales in factor_scales(form, tensors["alphas"]))
    mixed = u[:, None] * ((left * m) @ right.flatten(1))
    by_channel = mixed.reshape(*form.shape[:2], -1) * v[:, None]
    return by_channel.reshape(form.shape).float()
