"""The dense weight of a stored form (format/form.py), by torch operations alone, on the device of its bits."""

import torch
from torch import Tensor

from tbn_bench import tiling
from tbn_bench.format.form import KERNEL, TRITS, Form
from tbn_bench.kernels import _tile


def float_scales(form: Form, alphas: Tensor) -> Tensor:
    return torch.exp2(alphas.float()) if form.exponents else alphas


def _values(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The stored values, not of code low_rank: (q,) float32."""
    data = tensors["tile"]
    if form.code == "ternary":
        powers = torch.tensor([3**i for i in range(TRITS)], device=data.device)
        return (data.long()[:, None] // powers % 3 - 1).reshape(-1)[: form.q].float()
    if form.code == "codebook":
        kernels, width = form.numel // KERNEL, form.index_bits
        places = torch.tensor([1 << i for i in range(width)], device=data.device)
        indices = ((_tile.unpack(data, kernels * width) > 0).reshape(kernels, width) * places).sum(
            1
        )
        return (
            _tile.unpack(tensors["codebook"], KERNEL << width)
            .reshape(-1, KERNEL)[indices]
            .reshape(-1)
        )
    return _tile.unpack(data, form.q)


def factor_signs(form: Form, tile_bits: Tensor) -> tuple[Tensor, Tensor]:
    """Of code low_rank: U: (rows, rank) and V: (rank, *shape[1:]), +-1."""
    first, second = form.factor_sizes
    signs = _tile.unpack(tile_bits, first + second)
    left = signs[:first].reshape(form.shape[0], form.rank)
    return left, signs[first:].reshape(form.rank, *form.shape[1:])


def factor_scales(form: Form, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of code low_rank: u: (rows,), m: (rank,), v: (C_in,)."""
    u, m, v = alphas.split([form.shape[0], form.rank, form.shape[1]])
    return u, m, v


def _product(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The dense weight of two factors, by form.py's rule."""
    left, right = (signs.double() for signs in factor_signs(form, tensors["tile"]))
    u, m, v = (scales.double() for scales in factor_scales(form, tensors["alphas"]))
    mixed = u[:, None] * ((left * m) @ right.flatten(1))
    by_channel = mixed.reshape(*form.shape[:2], -1) * v[:, None]
    return by_channel.reshape(form.shape).float()


def dense_weight(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """Form.dense by torch operations alone: the float32 weight, in form.weight_shape, on the device of the bits."""
    if form.code == "low_rank":
        return _product(form, tensors)
    stored, copies = _values(form, tensors), form.copies
    laid_out = stored.repeat(form.p) if copies is None else tiling.lay_out(stored, copies)
    out = laid_out.reshape(max(1, form.scales), -1)
    if form.scales:
        out = out * float_scales(form, tensors["alphas"])[:, None]
    if form.offsets:
        out = out + tensors["offsets"][:, None]
    out = out.reshape(form.shape)
    return out if copies is None else tiling.enlarged(out, copies)
