"""GPT (Radford et al. 2019): a decoder-only Transformer, in the form and size of nanoGPT.

Defaults: nanoGPT's size for a CPU. 4 blocks, 4 heads, 128 wide, no biases, no dropout; the output
layer is the token embedding. gpt(dim=192) with contexts of 128 is the larger one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

START = 0.02  # standard deviation of the first weights, as GPT-2's


@dataclass
class Seen:
    """Keys and values of the tokens that a block has read: (B, heads, tokens, depth) each."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with those of further tokens."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], 2)
            values = torch.cat([self.values, values], 2)
        self.keys = keys
        self.values = values
        return keys, values


@dataclass
class Cache:
    """What Decoder.further keeps of the tokens that it has read. length: their number."""

    blocks: list[Seen] = field(default_factory=list)
    length: int = 0


class Attention(nn.Module):
    """Causal multi-head self-attention. x: (B, T, dim) -> (B, T, dim)."""

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, depth)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out = out.transpose(1, 2).flatten(2)
        return self.drop(self.proj(out))

    def further(self, x: Tensor, seen: Seen) -> Tensor:
        """forward of the tokens x: (B, n, dim) behind those that were seen."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, new_keys, new_values = qkv.permute(2, 0, 3, 1, 4)
        keys, values = seen.extended(new_keys, new_values)
        new = q.shape[2]
        total = keys.shape[2]
        mask = torch.ones(new, total, dtype=torch.bool, device=x.device).tril(total - new)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and with its own shortcut.

    x: (B, T, dim) -> (B, T, dim).
    """

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, bias=bias)
        self.attn = Attention(dim, heads, dropout, bias)
        self.norm2 = nn.LayerNorm(dim, bias=bias)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim, bias=bias),
            nn.GELU(),
            nn.Linear(4 * dim, dim, bias=bias),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(self.norm1(x))
        x = x + attended
        mixed = self.mlp(self.norm2(x))
        return x + mixed

    def further(self, x: Tensor, seen: Seen) -> Tensor:
        """forward of the tokens x: (B, n, dim) behind those that were seen."""
        attended = self.attn.further(self.norm1(x), seen)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """x: (B, context) token numbers, of any number type -> logits (B, context, num_classes).

    The logits at a place depend on the tokens up to it: a shorter text may be filled up behind.
    """

    def __init__(
        self,
        depth: int,
        heads: int,
        dim: int,
        dropout: float,
        bias: bool,
        num_classes: int,
        context: int,
    ):
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(num_classes, dim)
        self.positions = nn.Parameter(torch.empty(1, context, dim))
        self.drop = nn.Dropout(dropout)
        blocks = [Block(dim, heads, dropout, bias) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim, bias=bias)
        self.head = nn.Linear(dim, num_classes, bias=False)
        self.head.weight = self.tokens.weight
        self._start_()

    def _start_(self) -> None:
        """Normal weights; those that end in a shortcut are smaller, by their number (GPT-2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=START)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=START)
        shortcuts = 2 * len(self.blocks)
        for block in self.blocks:
            for last in (block.attn.proj, block.mlp[2]):
                nn.init.normal_(last.weight, std=START * shortcuts**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.tokens(x.long())
        x = self.drop(embedded + self.positions)
        x = self.blocks(x)
        x = self.norm(x)
        return self.head(x)

    def further(self, x: Tensor, cache: Cache) -> Tensor:
        """The logits of the tokens x: (B, n) behind those of the cache: (B, n, num_classes).

        They equal those of forward on all tokens. The cache then has these tokens too. Only for
        evaluation. Raises ValueError where more than `context` tokens come together.
        """
        end = cache.length + x.shape[1]
        if end > self.context:
            raise ValueError(
                f"the context has {self.context} tokens, got {cache.length} and {x.shape[1]} more; "
                "begin another Cache with the last ones"
            )
        if not cache.blocks:
            cache.blocks = [Seen() for _ in self.blocks]
        places = self.positions[:, cache.length : end]
        state = self.tokens(x.long()) + places
        for block, seen in zip(self.blocks, cache.blocks, strict=True):
            state = block.further(state, seen)
        cache.length = end
        return self.head(self.norm(state))


def gpt(
    depth: int = 4,
    heads: int = 4,
    dim: int = 128,
    dropout: float = 0.0,
    bias: bool = False,
    num_classes: int = 65,
    in_shape: Sequence[int] = (64,),
) -> nn.Module:
    """x: (B, *in_shape) token numbers -> logits (B, *in_shape, num_classes).

    Raises ValueError for samples that are no tokens, and where heads does not divide dim.
    """
    if len(in_shape) != 1:
        raise ValueError(
            f"gpt reads tokens, samples of shape (context,), got {tuple(in_shape)}; "
            "use --data char_text"
        )
    if heads < 1 or dim % heads:
        raise ValueError(f"heads must divide dim, got heads={heads} for dim={dim}")
    (context,) = in_shape
    return Decoder(depth, heads, dim, dropout, bias, num_classes, context)
