"""The patterns of transformers as ops of a native program."""

import torch

from tbn_bench import native
from tbn_bench.compiler.cpu.operands import Builder
from tbn_bench.compiler.graph import Attention, Patches, Tokens, Unsupported
from tbn_bench.native import Op


def attention(operation: Attention, build: Builder) -> int:
    heads = operation.heads
    x = build.operand(operation.x, last=True)
    value = build.value(x)
    height, width, channels = value.shape
    depth, rest = divmod(channels, 3 * heads)
    if value.rank != 3 or rest:
        raise Unsupported(f"attention of {heads} heads on {channels} channels")
    out = build.region.new((height, width, channels // 3), 3, True)
    kind = native.CAUSAL_ATTENTION if operation.causal else native.ATTENTION
    return build.region.add(Op(kind, x, out, rows=heads, eps=depth**-0.5))


def patches(operation: Patches, build: Builder) -> int:
    patch = operation.patch
    x = build.operand(operation.x, last=False)
    value = build.value(x)
    height, width, channels = value.shape
    if value.rank != 4 or height % patch or width % patch:
        raise Unsupported(f"patches of {patch} on a map of {height} x {width}")
    tokens = (height // patch) * (width // patch)
    out = build.region.new((1, tokens, patch * patch * channels), 3, True)
    return build.region.add(Op(native.PATCHES, x, out, stride=(patch, patch)))


def tokens(operation: Tokens, build: Builder) -> int:
    """Further tokens in front, and a table added to all of them."""
    front, table = (part[0].float().cpu() for part in (operation.front, operation.table))
    x = build.operand(operation.x, last=True)
    value = build.value(x)
    _, before, channels = value.shape
    after = len(front) + before
    if value.rank != 3 or front.shape[1] != channels or table.shape != (after, channels):
        raise Unsupported(
            f"tokens {tuple(front.shape)} and a table {tuple(table.shape)} on {value.shape}"
        )
    out = build.region.new((1, after, channels), 3, True)
    added = torch.cat([table[: len(front)] + front, table[len(front) :]]).numpy()
    return build.region.add(Op(native.TOKENS, x, out, rows=len(front), coefficients=added))
