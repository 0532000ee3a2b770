"""The dense weight of a stored form (format/form.py), by torch operations on the bits' device."""

import torch
from torch import Tensor

from tbn_bench import tiling
from tbn_bench.format.coding import KERNEL, TRITS
from tbn_bench.format.form import Form
from tbn_bench.kernels import stored_tile


def dense_weight(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The float32 weight, in form.weight_shape: Form.dense by torch operations alone."""
    if form.code == "low_rank":
        return _product(form, tensors)
    stored = _values(form, tensors)
    copies = form.copies
    if copies is None:
        repeated = stored.repeat(form.p)
        return _scaled(form, repeated, tensors)
    laid_out = tiling.lay_out(stored, copies)
    weight = _scaled(form, laid_out, tensors)
    return tiling.enlarged(weight, copies)


def _scaled(form: Form, values: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """alpha * value + offset, in form.shape; values: N of them, laid out."""
    num_runs = max(1, form.scales)
    runs = values.reshape(num_runs, -1)
    if form.scales:
        alphas = tensors["alphas"]
        scales = float_scales(form, alphas)
        runs = runs * scales.unsqueeze(1)
    if form.offsets:
        offsets = tensors["offsets"]
        runs = runs + offsets.unsqueeze(1)
    return runs.reshape(form.shape)


def float_scales(form: Form, alphas: Tensor) -> Tensor:
    """The stored scales as floating-point numbers: (k,)."""
    if not form.exponents:
        return alphas
    exponents = alphas.float()
    return torch.exp2(exponents)


def factor_signs(form: Form, tile_bits: Tensor) -> tuple[Tensor, Tensor]:
    """Of code low_rank: U: (rows, rank) and V: (rank, *shape[1:]), +-1."""
    first, second = form.factor_sizes
    count = first + second
    signs = stored_tile.unpack(tile_bits, count)
    left = signs[:first]
    right = signs[first:]
    rows, *others = form.shape
    rank = form.rank
    return left.reshape(rows, rank), right.reshape(rank, *others)


def factor_scales(form: Form, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of code low_rank: u: (rows,), m: (rank,), v: (C_in,)."""
    rows, channels, *_ = form.shape
    sizes = [rows, form.rank, channels]
    u, m, v = alphas.split(sizes)
    return u, m, v


def _values(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The stored values, not of code low_rank: (q,) float32."""
    data = tensors["tile"]
    if form.code == "ternary":
        return _ternary_values(data, form.q)
    if form.code == "codebook":
        return _codebook_values(form, data, tensors["codebook"])
    return stored_tile.unpack(data, form.q)


def _ternary_values(data: Tensor, n: int) -> Tensor:
    """data: bytes of five digits base 3 -> (n,) of -1, 0, +1."""
    powers = torch.tensor([3**i for i in range(TRITS)], device=data.device)
    numbers = data.long()
    shifted = numbers.unsqueeze(1) // powers
    digits = shifted % 3
    trits = digits - 1
    values = trits.reshape(-1)[:n]
    return values.float()


def _codebook_values(form: Form, data: Tensor, codebook: Tensor) -> Tensor:
    """data: indices of index_bits bits each -> the codebook entries they name: (N,)."""
    kernels = form.numel // KERNEL
    width = form.index_bits
    places = torch.tensor([1 << i for i in range(width)], device=data.device)
    signs = stored_tile.unpack(data, kernels * width)
    digits = signs.reshape(kernels, width) > 0
    worth = digits * places
    indices = worth.sum(1)
    book = stored_tile.unpack(codebook, KERNEL << width)
    entries = book.reshape(-1, KERNEL)
    values = entries[indices]
    return values.reshape(-1)


def _product(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The dense weight of two factors, by form.py's rule."""
    signs = factor_signs(form, tensors["tile"])
    left, right = (factor.double() for factor in signs)
    scales = factor_scales(form, tensors["alphas"])
    u, m, v = (scale.double() for scale in scales)
    columns = right.flatten(1)
    mixed = (left * m) @ columns
    scaled_rows = u.unsqueeze(1) * mixed
    rows, channels, *_ = form.shape
    by_channel = scaled_rows.reshape(rows, channels, -1)
    weight = by_channel * v.unsqueeze(1)
    rounded = weight.float()
    return rounded.reshape(form.shape)
