"""The operations of a network in numpy, with torch's names, arguments and layout: (B, C, *spatial).

Arrays are float32 and stay so. What an operation cannot do raises Unsupported.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[Any]
Ints = Sequence[int]
COLUMN_FLOATS = 1 << 20  # patches of a convolution that are laid out at once: 4 MB
_PAD_MODES = {
    "zeros": "constant",
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


class Unsupported(ValueError):
    """An operation without a rule, or a tensor that the packed file does not hold."""


# Windows: convolutions and pools


def each(value: int | Ints, n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    return tuple(value)


def padded(x: Array, around: Iterable[Ints], mode: str = "zeros", value: float = 0.0) -> Array:
    """x with (before, after) of each of its last axes added."""
    pairs = [tuple(pair) for pair in around]
    lead = x.ndim - len(pairs)
    widths = [(0, 0)] * lead + pairs
    if _PAD_MODES[mode] == "constant":
        return np.pad(x, widths, constant_values=value)
    around_x: Array = np.pad(x, widths, mode=_PAD_MODES[mode])  # type: ignore[call-overload]
    return around_x


def window(x: Array, around: Iterable[Ints]) -> Array:
    """x with (before, after) of each of its last axes added as zeros, or cut off where negative."""
    pairs = list(around)
    lead = x.ndim - len(pairs)
    shape = list(x.shape)
    target = [slice(None)] * lead
    source = [slice(None)] * lead
    is_empty = False
    for axis, (before, after) in enumerate(pairs, lead):
        size = x.shape[axis]
        shape[axis] = size + before + after
        start = max(0, -before)
        end = max(start, min(size, size + after))
        is_empty = is_empty or start == end
        source.append(slice(start, end))
        target.append(slice(start + before, end + before))
    out = np.zeros(shape, x.dtype)
    if not is_empty:
        out[tuple(target)] = x[tuple(source)]
    return out


def windows(x: Array, kernel: Ints, stride: Ints, dilation: Ints) -> Array:
    """A view of what a kernel meets: (B, C, *spatial) -> (B, C, *places, *kernel)."""
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    everywhere = sliding_window_view(x, spans, axis=tuple(range(2, x.ndim)))
    steps = [slice(None, None, step) for step in (*stride, *dilation)]
    return everywhere[(slice(None), slice(None), *steps)]


def convolution(x: Array, weight: Array, stride: Ints, dilation: Ints, groups: int) -> Array:
    """One matrix product per image and group: kernels (C_out / groups, patch) by patches.

    x: (B, C, *spatial), padded; weight: (C_out, C / groups, *kernel) -> (B, C_out, *places).
    """
    n = weight.ndim - 2
    c_out = len(weight)
    met = windows(x, weight.shape[2:], stride, dilation)
    places = met.shape[2 : 2 + n]
    columns_first = (0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
    kernels = weight.reshape(groups, c_out // groups, -1)
    floats_of_an_image = groups * kernels.shape[2] * math.prod(places)
    at_once = max(1, COLUMN_FLOATS // floats_of_an_image)
    out = np.empty((len(x), c_out, *places), np.float32)
    for start in range(0, len(x), at_once):
        part = met[start : start + at_once].transpose(columns_first)
        columns = part.reshape(len(part), groups, -1, math.prod(places))
        out[start : start + at_once] = (kernels @ columns).reshape(len(part), c_out, *places)
    return out


def _pool_padding(shape: Ints, window: Sequence[Ints], ceil: bool) -> list[Ints]:
    """(before, after) of each axis; with ceil a last window may end outside if it begins inside.

    window: kernel, stride, padding and dilation of each axis.
    """
    around: list[Ints] = []
    for size, k, s, p, d in zip(shape, *window, strict=True):
        span = d * (k - 1) + 1
        free = size + 2 * p - span
        last = -(-free // s) if ceil else free // s
        if ceil and last * s >= size + p:
            last -= 1
        around.append((p, max(p, last * s + span - size - p)))
    return around


def _over_kernel(combine: Callable[[Array, Array], Array], met: Array, n: int) -> Array:
    """(..., *places, *kernel), n axes of each -> (..., *places): one position after the other."""
    positions = np.ndindex(met.shape[-n:])
    return functools.reduce(combine, (met[(..., *position)] for position in positions))


def max_pool(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array:
    """Values beyond the edges are -inf."""
    if return_indices:
        raise Unsupported("max_pool with return_indices")
    n = x.ndim - 2
    kernel = each(kernel_size, n)
    pads = each(padding, n)
    dilations = each(dilation, n)
    strides = each(stride, n) if stride else kernel
    around = _pool_padding(x.shape[2:], (kernel, strides, pads, dilations), ceil_mode)
    whole = padded(x, around, value=-np.inf)
    return _over_kernel(np.maximum, windows(whole, kernel, strides, dilations), n)


def avg_pool(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    if ceil_mode:
        raise Unsupported("avg_pool with ceil_mode")
    n = x.ndim - 2
    kernel = each(kernel_size, n)
    strides = each(stride, n) if stride else kernel
    around = [(p, p) for p in each(padding, n)]

    def sums(values: Array) -> Array:
        return _over_kernel(np.add, windows(padded(values, around), kernel, strides, (1,) * n), n)

    if divisor_override is not None:
        return sums(x) / np.float32(divisor_override)
    if count_include_pad:
        return sums(x) / np.float32(math.prod(kernel))
    return sums(x) / sums(np.ones_like(x[:1, :1]))


def _adaptive(x: Array, output_size: Any, reduce: Callable[..., Any]) -> Array:
    """Cell i of o along an axis of n values covers floor(i n / o) to ceil((i + 1) n / o)."""
    shape = x.shape[2:]
    wanted = each(output_size, len(shape))
    cells = [given or size for given, size in zip(wanted, shape, strict=True)]
    out = np.empty((*x.shape[:2], *cells), x.dtype)
    for cell in np.ndindex(*cells):
        covered: list[Any] = [slice(None), slice(None)]
        for i, o, size in zip(cell, cells, shape, strict=True):
            covered.append(slice(i * size // o, -(-(i + 1) * size // o)))
        out[(..., *cell)] = reduce(x[tuple(covered)], axis=tuple(range(2, x.ndim)))
    return out


def adaptive_avg_pool(x: Array, output_size: Any) -> Array:
    return _adaptive(x, output_size, np.mean)


def adaptive_max_pool(x: Array, output_size: Any) -> Array:
    return _adaptive(x, output_size, np.max)


# Element by element, and over one axis


def per_channel(values: Array, x: Array) -> Array:
    """(C,) in a shape that meets x: (B, C, *spatial)."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def relu(x: Array, inplace: bool = False) -> Array:
    return np.maximum(x, 0)


def clamp(x: Array, min: Any = None, max: Any = None) -> Array:
    return np.clip(x, min, max)


def gelu(x: Array, approximate: str = "none") -> Array:
    """x Phi(x) (Hendrycks and Gimpel, arXiv 1606.08415), or their formula with tanh."""
    if approximate == "none":
        share: Array = 0.5 * (1 + erf(x * math.sqrt(0.5)))
    else:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        share = 0.5 * (1 + np.tanh(inner))
    return x * share


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array, inplace: bool = False) -> Array:
    return x * sigmoid(x)


def softmax(x: Array, dim: int, _stacklevel: int = 3, dtype: None = None) -> Array:
    powers: Array = np.exp(x - x.max(dim, keepdims=True))
    powers /= powers.sum(dim, keepdims=True)
    return powers


def dropout(x: Array, p: float = 0.5, training: bool = False, inplace: bool = False) -> Array:
    if training:
        raise Unsupported("dropout of a network in training")
    return x


def normalised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) over the axes."""
    centred: Array = x - x.mean(axes, keepdims=True)
    variance = (centred**2).mean(axes, keepdims=True)
    centred /= np.sqrt(variance + np.float32(eps))
    return centred


def attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Array:
    """softmax(q k^T / sqrt(d) + mask) v. q, k, v: (..., T, d)."""
    boolean = attn_mask is not None and attn_mask.dtype == bool
    if dropout_p or boolean:
        raise Unsupported("attention with dropout or a mask that is not added")
    likeness = query @ key.swapaxes(-1, -2) * (1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        likeness = likeness + attn_mask
    if is_causal:
        own_and_before = np.tri(*likeness.shape[-2:]) > 0
        likeness = np.where(own_and_before, likeness, np.float32(-np.inf))
    return softmax(likeness, -1) @ value


def _axes(dim: Any) -> Any:
    """numpy's word for torch's dim: None for all axes."""
    if dim is None or dim == ():
        return None
    if isinstance(dim, int):
        return dim
    return tuple(dim)


def mean(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return np.asarray(x.mean(_axes(dim), keepdims=keepdim))


def total(x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return np.asarray(x.sum(_axes(dim), keepdims=keepdim))


def largest(x: Array, dim: Any = (), keepdim: bool = False) -> Array:
    return np.asarray(x.max(_axes(dim), keepdims=keepdim))


# Shapes


def _listed(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of x.view(2, 3) and x.view((2, 3)) alike."""
    together = len(sizes) == 1 and isinstance(sizes[0], tuple | list)
    return tuple(sizes[0]) if together else sizes


def reshape(x: Array, *sizes: Any) -> Array:
    return x.reshape(_listed(sizes))


def permute(x: Array, *axes: Any) -> Array:
    return x.transpose(_listed(axes))


def transpose(x: Array, dim0: int, dim1: int) -> Array:
    return x.swapaxes(dim0, dim1)


def flatten(x: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    first = start_dim % x.ndim
    last = end_dim % x.ndim
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])


def unflatten(x: Array, dim: int, sizes: Ints) -> Array:
    axis = dim % x.ndim
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def squeeze(x: Array, dim: int) -> Array:
    if x.shape[dim] != 1:
        return x
    return x.squeeze(dim)


def unsqueeze(x: Array, dim: int) -> Array:
    return np.expand_dims(x, dim)


def expand(x: Array, *sizes: Any) -> Array:
    """-1 keeps a size."""
    wanted = _listed(sizes)
    own = (1,) * (len(wanted) - x.ndim) + x.shape
    shape = [old if new == -1 else new for old, new in zip(own, wanted, strict=True)]
    return np.broadcast_to(x, shape)


def unfold(x: Array, dimension: int, size: int, step: int) -> Array:
    axis = dimension % x.ndim
    steps = (slice(None),) * axis + (slice(None, None, step),)
    return sliding_window_view(x, size, axis=axis)[steps]


def pad(x: Array, pad: Ints, mode: str = "constant", value: float | None = None) -> Array:
    """pad: (before, after) of the last axis first."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    return padded(x, pairs[::-1], mode, value or 0.0)


def cat(tensors: Sequence[Array], dim: int = 0) -> Array:
    return np.concatenate(tensors, dim)


def stack(tensors: Sequence[Array], dim: int = 0) -> Array:
    return np.stack(tensors, dim)


def unbind(x: Array, dim: int = 0) -> tuple[Array, ...]:
    return tuple(np.moveaxis(x, dim, 0))


def roll(x: Array, shifts: Any, dims: Any) -> Array:
    return np.roll(x, shifts, dims)


def eye(n: int, device: Any = None, dtype: Any = None) -> Array:
    return np.eye(n, dtype=np.float32)


def long(x: Array) -> Array:
    return x.astype(np.int64)


def contiguous(x: Array) -> Array:
    return x


def size(x: Array, dim: int | None = None) -> Any:
    if dim is None:
        return x.shape
    return x.shape[dim]


def attribute(x: Array, name: str) -> Any:
    if name not in ("shape", "ndim", "device", "dtype"):
        raise Unsupported(f"a value's {name}")
    return getattr(x, name)
