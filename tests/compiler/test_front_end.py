"""The parts that both back ends share: names and rules, reasons, geometry, the arena."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from tbn_bench import native
from tbn_bench.compiler import arena, geometry, graph, names, patterns
from tbn_bench.compiler.executor import Executor
from tbn_bench.compiler.rules import operation_of
from tbn_bench.compiler.trace import symbolic


def operation(call):
    """What the last call of a function or module does, by its rule."""
    network = call if isinstance(call, nn.Module) else _Calling(call)
    traced = symbolic(network.eval())
    node = [node for node in traced.nodes if node.op.startswith("call")][-1]
    return operation_of(node, dict(network.named_modules()))


class _Calling(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


@pytest.mark.parametrize("call", [nn.Sequential(nn.ReLU()), F.relu, torch.relu, lambda x: x.relu()])
def test_all_names_of_an_operation_have_one_rule(call):
    assert type(operation(call)) is graph.Relu


@pytest.mark.parametrize(
    ("call", "made"),
    [
        (lambda x: torch.flatten(x, start_dim=1), graph.Flatten),
        (lambda x: x.mean((2, 3), keepdim=True), graph.Mean),
        (lambda x: x[:, :, ::2, ::2], graph.Subsample),
        (lambda x: x[:, 0], graph.Select),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), graph.PadChannels),
        (lambda x: F.dropout(x, training=False), graph.Same),
        (lambda x: x / 4, graph.Scale),
        (lambda x: x * 0.5, graph.Scale),
        (nn.Sequential(nn.ReLU6()), graph.Clamp),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1)), graph.Mean),
        (nn.Sequential(nn.MaxPool1d(2)), graph.Pool),
    ],
)
def test_calls_become_operations(call, made):
    assert type(operation(call)) is made


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (nn.Sequential(nn.SiLU()), "no rule for SiLU"),
        (torch.sigmoid, "no rule for sigmoid"),
        (lambda x: torch.add(x, x, alpha=2), r"no rule for add\(alpha=...\)"),
        (lambda x: x + 1, "no rule for a sum with a constant"),
        (lambda x: x * -1, "no rule for mul"),
        (lambda x: x * x, "no rule for mul"),
        (lambda x: x.flatten(2), "no rule for flatten of axes 2 to -1"),
        (lambda x: F.dropout(x), "no rule for dropout in training mode"),
        (lambda x: x.mean(dtype=torch.float64), r"no rule for mean\(dtype=...\)"),
        (lambda x: x[..., 0], "no rule for indexing by"),
        (lambda x: F.pad(x, (1, 1)), r"no rule for padding by \(1, 1\)"),
        (lambda x: F.gelu(x, approximate="tanh"), "no rule for GELU by an approximation"),
        (lambda x: torch.relu(input=x), "its input is given by keyword; give it by position"),
        (
            nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
            "batch normalisation without running statistics",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")),
            "padding must be zeros, got reflect",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 3, 2, padding="same")),
            "padding must be the same on both sides",
        ),
    ],
)
def test_what_has_no_operation_has_a_reason(call, reason):
    with pytest.raises(graph.Unsupported, match=reason):
        operation(call)


def test_a_name_has_one_rule():
    with pytest.raises(ValueError, match="has two rules"):
        names.lowers(nn.ReLU)(lambda call: graph.Same(call.x))


def test_words_are_those_of_functions_and_methods():
    traced = fx.symbolic_trace(_Calling(lambda x: torch.cat([x + x.permute(1, 0), x], 1)))
    words = [patterns.word(node) for node in traced.graph.nodes]
    assert words == ["", "permute", "add", "cat", ""]


@given(
    size=st.integers(1, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
    ceil=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_positions_are_those_of_torch(size, kernel, stride, padding, dilation, ceil):
    """Of torch's own pooling, wherever it accepts the sizes."""
    pool = nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=ceil)
    try:
        expected = pool(torch.zeros(1, 1, size)).shape[-1]
    except RuntimeError:
        return
    assert geometry.positions(size, kernel, stride, padding, dilation, ceil) == expected


LIVES = st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(1, 9))


@given(lives=st.lists(LIVES, max_size=12))
@settings(deadline=None)
def test_buffers_that_live_at_the_same_time_do_not_overlap(lives):
    buffers = [
        arena.Buffer(i, first, first + length, size)
        for i, (first, length, size) in enumerate(lives)
    ]
    arena.place(buffers)
    for i, one in enumerate(buffers):
        for other in buffers[:i]:
            is_apart = one.end <= other.start or other.end <= one.start
            assert is_apart or not one.alive_with(other)


def test_lifetimes_by_hand():
    """Value 0 is the input, 3 the output; step 1 reads 0 and 1."""
    steps = [((0,), 1), ((0, 1), 2), ((2,), 3)]
    lives = arena.lifetimes(steps, inputs=[0], kept=[3])
    assert lives == {0: (-1, 1), 1: (0, 1), 2: (1, 2), 3: (2, 3)}


def test_an_executor_says_why_something_stays_in_torch():
    try:
        native.load()
    except native.NativeUnavailable as error:
        pytest.skip(f"native kernels: {error}")
    network = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2))
    run = Executor(network, torch.zeros(1, 4))
    assert run.reasons == {"1": "no rule for SiLU", "3": "no rule for SiLU"}
    assert run.describe().endswith("; in torch: 1, 3 (no rule for SiLU)")
