"""Batch norm over p scaled copies of a tensor, with the residual sum and ReLU, in one operation.

Behind an aligned tiled layer, channel c = i R + r of the input of batch norm is alpha_c t_r, where
t has R = C / p channels. With m and v the mean and the biased variance of t over N values:

    s_c = (alpha_c^2 v_r + eps)^(-1/2)
    out_c = act(gamma_c alpha_c s_c (t_r - m_r) + beta_c + residual_c)

So the statistics need only t. With g the gradient of out where act let the value pass, and sums
over the N values:

    S_c = sum g_c,  P_c = sum g_c (t_r - m_r)
    dL/dbeta_c = S_c,  dL/dgamma_c = alpha_c s_c P_c,  dL/dalpha_c = gamma_c eps s_c^3 P_c
    dL/dy_c = gamma_c s_c (g_c - S_c / N - alpha_c^2 s_c^2 (t_r - m_r) P_c / N)
    dL/dt_r = sum_i alpha_c dL/dy_c

where y_c = alpha_c t_r is the copy. These are the equations of batch norm (Ioffe and Szegedy, arXiv
1502.03167) with y_c written out. There are two implementations: torch, for any type, layout and
device, and the native library, for float32 and bfloat16 in channels-last memory on a CPU.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tbn_bench.format.layouts import hadamard
from tbn_bench.native import training
from tbn_bench.native.abi import NormStruct
from tbn_bench.tiling import constant_in_graphs

HALF = torch.bfloat16
NATIVE_TYPES = (torch.float32, HALF)
_LANES = 16  # values whose bits are one number


class Norm(NamedTuple):
    """p: copies. level: of the native library; None computes by torch.

    mixed: of hadamard copies, their number; then p = 1, and t has all C channels: part i of the
    normalised values is sum_s H_is t_s, with Sylvester's H. Else 1. is_mixed: whether t is mixed by
    H already; its gradient is still that of the parts before.
    """

    p: int
    eps: float
    relu: bool
    level: str | None
    mixed: int = 1
    is_mixed: bool = False


class Normed(NamedTuple):
    """out: (B, C, H, W). mean, variance: (C,), float64, of the copies; the variance is unbiased."""

    out: Tensor
    mean: Tensor
    variance: Tensor


def why_not_native(t: Tensor, p: int, mixed: int = 1) -> str:
    """Why the native library cannot take p copies of t: (B, R, H, W). "" where it can."""
    if t.device.type != "cpu":
        return f"the values are on {t.device.type}; the native library needs a CPU"
    if t.dtype not in NATIVE_TYPES:
        return f"the values are {t.dtype}; the native library takes float32 and bfloat16"
    if t.dim() != 4 or not t.is_contiguous(memory_format=torch.channels_last):
        return "the values are not in channels-last memory"
    rows = t.shape[1]
    if not training.takes(rows, p):
        return f"the native library has no code for {p} copies of {rows} channels"
    if mixed > 1 and not training.mixes(rows, mixed):
        return f"the native library cannot mix {mixed} parts of {rows} channels"
    return ""


def mix(t: Tensor, p: int) -> Tensor:
    """Sylvester's matrix times p parts of the channels of t: (B, C, ...)."""
    signs: Tensor = sylvester(p)
    parts = t.unflatten(1, (p, -1))
    mixed = torch.einsum("is,bs...->bi...", signs.to(t.device, t.dtype), parts)
    return mixed.flatten(1, 2)


def mixed_back(t: Tensor, p: int) -> Tensor:
    """t, whose gradient is mixed from p parts. t: (B, C, ...)."""
    out: Tensor = _MixedBack.apply(t, p)
    return out


class _MixedBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, p: int) -> Tensor:
        ctx.p = p
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return mix(gradient, ctx.p), None


@constant_in_graphs
def sylvester(p: int) -> Tensor:
    return torch.from_numpy(hadamard(p))


def copies_norm(
    t: Tensor,
    scales: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    added: Tensor | None,
    norm: Norm,
) -> Normed:
    """Batch norm in training mode over p copies of t, + residual, then ReLU where norm.relu.

    t: (B, R, H, W). scales: (k,), each for C / k channels. weight, bias: (C,). residual:
    (B, C, H, W), of t's type. added: (B, C, H, W), zeros: it gets the gradient of the copies.
    """
    found = _CopiesNorm.apply(t, scales, weight, bias, residual, added, norm)
    return Normed(*found)


def _per_channel(scales: Tensor | None, channels: int) -> Tensor | None:
    """scales: (k,) -> (channels,)."""
    if scales is None:
        return None
    return scales.detach().repeat_interleave(channels // len(scales))


def _as_float(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.detach().to(torch.float32).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _nhwc(like: Tensor, channels: int) -> Tensor:
    """An empty tensor in channels-last memory: (B, channels, H, W)."""
    batch, _, *sizes = like.shape
    return torch.empty(
        (batch, channels, *sizes), dtype=like.dtype, memory_format=torch.channels_last
    )


class _CopiesNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        t: Tensor,
        scales: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        added: Tensor | None,
        norm: Norm,
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels = t.shape[1] * norm.p
        alpha = _per_channel(scales, channels)
        ctx.norm = norm
        ctx.num_scales = 0 if scales is None else len(scales)
        ctx.types = [None if x is None else x.dtype for x in (scales, weight, bias)]
        step = _by_torch if norm.level is None else _native
        result = step.forward(t, alpha, weight, bias, residual, norm)
        out = result.out
        ctx.save_for_backward(result.t, alpha, weight, result.kept, result.mean, result.variance)
        ctx.mark_non_differentiable(result.channel_mean, result.channel_variance)
        ctx.set_materialize_grads(False)
        return out, result.channel_mean, result.channel_variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 7
        saved = _Saved(*ctx.saved_tensors)
        *_, needs_residual, needs_added, _ = ctx.needs_input_grad
        wanted = _Wanted(residual=needs_residual, added=needs_added)
        step = _by_torch if ctx.norm.level is None else _native
        found = step.backward(gradient, saved, wanted, ctx.norm)
        d_scales = None
        if ctx.num_scales:
            by_scale = found.alpha.unflatten(0, (ctx.num_scales, -1))
            d_scales = by_scale.sum(1)
        vectors = []
        for value, dtype in zip((d_scales, found.weight, found.bias), ctx.types, strict=True):
            vectors.append(None if dtype is None or value is None else value.to(dtype))
        return found.t, *vectors, found.residual, found.added, None


class _Forward(NamedTuple):
    """mean, variance: (R,) of t, which is what is normalised; float64, biased.

    kept: what says where ReLU lets the gradient pass; None without ReLU. By torch it is out itself;
    the native library keeps a bit for each value.
    """

    t: Tensor
    out: Tensor
    kept: Tensor | None
    mean: Tensor
    variance: Tensor
    channel_mean: Tensor
    channel_variance: Tensor


class _Saved(NamedTuple):
    t: Tensor
    alpha: Tensor | None
    weight: Tensor | None
    kept: Tensor | None
    mean: Tensor
    variance: Tensor


class _Wanted(NamedTuple):
    """Which gradients of tensors with C channels are needed."""

    residual: bool
    added: bool


class _Gradients(NamedTuple):
    """alpha, weight, bias: (C,), float64."""

    t: Tensor
    alpha: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    added: Tensor | None


class _native:
    """One call of the native library forward, and one backward."""

    @staticmethod
    def _call(t: Tensor, alpha: Tensor | None, weight: Tensor | None, norm: Norm) -> NormStruct:
        batch, rows, height, width = t.shape
        return NormStruct(
            rows=batch * height * width,
            channels=rows,
            p=norm.p,
            half=t.dtype == HALF,
            relu=norm.relu,
            mixed=norm.mixed,
            t=t.data_ptr(),
            alpha=_address(alpha),
            gamma=_address(weight),
            eps=norm.eps,
        )

    @staticmethod
    def forward(
        t: Tensor,
        alpha: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        norm: Norm,
    ) -> _Forward:
        rows = t.shape[1]
        channels = rows * norm.p
        alpha, weight, bias = map(_as_float, (alpha, weight, bias))
        if residual is not None:
            residual = residual.detach().contiguous(memory_format=torch.channels_last)
        out = _nhwc(t, channels)
        of_t = torch.empty(2, rows, dtype=torch.float64)
        of_copies = torch.empty(2, channels, dtype=torch.float64)
        mean, variance = of_t
        channel_mean, channel_variance = of_copies
        mixes = norm.mixed > 1 and not norm.is_mixed
        mixed = torch.empty_like(t) if mixes else t
        call = _native._call(mixed, alpha, weight, norm)
        if mixes:
            call.parts = t.data_ptr()
        call.beta = _address(bias)
        call.residual = _address(residual)
        call.out = out.data_ptr()
        passes = None
        if norm.relu:
            passes = torch.empty(out.numel() // _LANES, dtype=torch.int16)
            call.passes = passes.data_ptr()
        call.mean = mean.data_ptr()
        call.variance = variance.data_ptr()
        call.channel_mean = channel_mean.data_ptr()
        call.channel_variance = channel_variance.data_ptr()
        training.forward(call, str(norm.level))
        return _Forward(mixed, out, passes, mean, variance, channel_mean, channel_variance)

    @staticmethod
    def backward(gradient: Tensor, saved: _Saved, wanted: _Wanted, norm: Norm) -> _Gradients:
        t = saved.t
        channels = t.shape[1] * norm.p
        alpha, weight = map(_as_float, (saved.alpha, saved.weight))
        gradient = gradient.to(t.dtype).contiguous(memory_format=torch.channels_last)
        vectors = torch.empty(3, channels, dtype=torch.float64)
        d_alpha, d_weight, d_bias = vectors
        d_t = torch.empty_like(t)
        total = masked = full = None
        call = _native._call(t, alpha, weight, norm)
        if norm.p > 1 or wanted.added:
            total = torch.empty(t.numel(), dtype=torch.float32)
            call.total = total.data_ptr()
            call.small = d_t.data_ptr()
        else:
            call.full = d_t.data_ptr()
        if wanted.added:
            full = _nhwc(t, channels)
            call.full = full.data_ptr()
        d_residual = gradient if wanted.residual else None
        if wanted.residual and norm.relu:
            masked = torch.empty_like(gradient)
            call.masked = masked.data_ptr()
            d_residual = masked
        call.gradient = gradient.data_ptr()
        call.passes = _address(saved.kept)
        call.mean = saved.mean.data_ptr()
        call.variance = saved.variance.data_ptr()
        call.d_alpha = d_alpha.data_ptr()
        call.d_gamma = d_weight.data_ptr()
        call.d_beta = d_bias.data_ptr()
        training.backward(call, str(norm.level))
        return _Gradients(d_t, d_alpha, d_weight, d_bias, d_residual, full)


class _by_torch:
    """The same equations on torch tensors. Copies are an axis of their own: (B, p, R, ...)."""

    @staticmethod
    def _coefficients(
        alpha: Tensor | None, weight: Tensor | None, variance: Tensor, norm: Norm
    ) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, gamma and s, each (p, R), float64."""
        rows = len(variance)
        ones = torch.ones(norm.p * rows, dtype=torch.float64, device=variance.device)
        scale = ones if alpha is None else alpha.double()
        gamma = ones if weight is None else weight.detach().double()
        scale = scale.reshape(norm.p, rows)
        inverse = (scale.square() * variance + norm.eps).rsqrt()
        return scale, gamma.reshape(norm.p, rows), inverse

    @staticmethod
    def _over(vector: Tensor, like: Tensor) -> Tensor:
        """(..., R) -> (..., R, 1, 1): a factor of (B, ..., R, H, W). like: (B, R, H, W)."""
        ones = [1] * (like.dim() - 2)
        return vector.reshape(*vector.shape, *ones)

    @staticmethod
    def forward(
        t: Tensor,
        alpha: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        norm: Norm,
    ) -> _Forward:
        over = _by_torch._over
        if norm.mixed > 1 and not norm.is_mixed:
            t = mix(t, norm.mixed)
        places = [0, *range(2, t.dim())]
        exact = t.double()
        mean = exact.mean(places)
        variance = exact.var(places, correction=0)
        scale, gamma, inverse = _by_torch._coefficients(alpha, weight, variance, norm)
        slope = gamma * scale * inverse
        offset = -slope * mean
        if bias is not None:
            offset = offset + bias.detach().double().reshape(offset.shape)
        factors = over(slope, t).to(t.dtype)
        copies = t.unsqueeze(1) * factors + over(offset, t).to(t.dtype)
        out = copies.flatten(1, 2)
        if residual is not None:
            out = out + residual
        if norm.relu:
            out = out.relu()
        count = t.numel() // t.shape[1]
        correction = count / max(1, count - 1)
        channel_mean = (scale * mean).flatten()
        channel_variance = (scale.square() * variance * correction).flatten()
        kept = out if norm.relu else None
        return _Forward(t, out, kept, mean, variance, channel_mean, channel_variance)

    @staticmethod
    def backward(gradient: Tensor, saved: _Saved, wanted: _Wanted, norm: Norm) -> _Gradients:
        over = _by_torch._over
        t = saved.t
        if saved.kept is not None:
            gradient = gradient.masked_fill(saved.kept <= 0, 0)
        scale, gamma, inverse = _by_torch._coefficients(
            saved.alpha, saved.weight, saved.variance, norm
        )
        count = t.numel() // t.shape[1]
        places = [0, *range(3, t.dim() + 1)]
        by_copy = gradient.unflatten(1, (norm.p, -1))
        centered = (t.double() - over(saved.mean, t)).unsqueeze(1)
        sums = by_copy.double().sum(places)
        products = (by_copy * centered).sum(places)
        d_weight = scale * inverse * products
        d_alpha = gamma * norm.eps * inverse**3 * products
        by_value = scale.square() * inverse.square() * products / count
        inner = by_copy - over(sums / count, t) - centered * over(by_value, t)
        copies = inner * over(gamma * inverse, t)
        d_t = (copies * over(scale, t)).sum(1).to(t.dtype)
        if norm.mixed > 1:
            d_t = mix(d_t, norm.mixed)
        full = copies.flatten(1, 2).to(t.dtype) if wanted.added else None
        d_residual = gradient if wanted.residual else None
        vectors = (d_alpha.flatten(), d_weight.flatten(), sums.flatten())
        return _Gradients(d_t, *vectors, d_residual, full)
