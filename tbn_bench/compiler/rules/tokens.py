"""The patterns of transformers."""

from tbn_bench.compiler import patterns
from tbn_bench.compiler.graph import Attention, Operation, Patches, Tokens
from tbn_bench.compiler.names import Call, lowers


@lowers(patterns.SelfAttention)
def self_attention(call: Call) -> Operation:
    return Attention(call.x, call.target.heads, call.target.causal)


@lowers(patterns.Patches)
def patches(call: Call) -> Operation:
    return Patches(call.x, call.target.patch)


@lowers(patterns.Tokens)
def tokens(call: Call) -> Operation:
    return Tokens(call.x, call.target.front, call.target.table)
