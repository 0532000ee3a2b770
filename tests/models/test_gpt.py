"""gpt: causal, tied, and the same by the packed file, numpy, the native program and a cache."""

import numpy as np
import pytest
import torch

from tbn_bench import binarize_, catalog, convert
from tbn_bench.convert.saved import to_artifact
from tbn_bench.experiment.numpy_forward import NumpyForward
from tbn_bench.models.gpt import Cache

CONTEXT = 21
SMALL = "gpt(dim=32, depth=2, heads=2)"
SPECS = [
    "bwn",
    "tbn(p=4, min_layer_size=0)",
    "tbn(p=4, min_layer_size=0, copies='hadamard', gradient='tile')",
    "tbn(p=4, min_layer_size=0, copies='columns', gradient='tile')",
    "low_rank(rank=2, min_layer_size=0)",
    "twn",
]


def network(call=SMALL):
    torch.manual_seed(0)
    return catalog.build("models", call, num_classes=11, in_shape=(CONTEXT,)).eval()


def tokens(n=3):
    return torch.randint(11, (n, CONTEXT)).float()


def test_the_weights_of_nanogpt():
    """4 blocks of 12 x 128^2 and an embedding of 65 x 128 that is the output layer too."""
    model = catalog.build("models", "gpt", num_classes=65, in_shape=(64,))
    plan = binarize_(model, "bwn")
    assert plan.weights == 4 * 12 * 128**2 + 65 * 128
    assert model.head.weight is model.tokens.weight
    last = plan.rows[-1]
    assert last.reason == "kept: tied to a module that is not converted"


def test_a_token_sees_none_after_it():
    """Other tokens from place 9 on change no logits before."""
    model = network()
    x = tokens()
    other = x.clone()
    other[:, 9:] = (x[:, 9:] + 1) % 11
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:, :9], model(other)[:, :9])
        assert not torch.allclose(model(x)[:, 9:], model(other)[:, 9:])


@pytest.mark.parametrize("spec", SPECS)
def test_packed_it_gives_the_same_by_numpy_and_by_a_cache(spec):
    """The cache reads 5 tokens, 4 tokens, and then one at a time."""
    model = network()
    binarize_(model, spec)
    x = tokens()
    with torch.no_grad():
        expected = model(x)
        convert.pack_(model)
        torch.testing.assert_close(model(x), expected)
        cache = Cache()
        parts = [model.further(part, cache) for part in x.split([5, 4] + [1] * 12, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-5)
    by_numpy = NumpyForward(network(), to_artifact(model))(x.numpy())
    np.testing.assert_allclose(by_numpy, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_full_cache_is_an_error():
    model = network()
    cache = Cache()
    model.further(tokens(1), cache)
    with pytest.raises(ValueError, match="the context has 21 tokens, got 21 and 1 more"):
        model.further(torch.zeros(1, 1), cache)


@pytest.mark.parametrize(
    ("call", "shape", "said"),
    [
        ("gpt", (3, 8, 8), r"samples of shape \(context,\), got \(3, 8, 8\); use --data char_text"),
        ("gpt(heads=3)", (8,), "heads must divide dim, got heads=3 for dim=128"),
    ],
)
def test_what_it_refuses(call, shape, said):
    with pytest.raises(ValueError, match=said):
        catalog.build("models", call, num_classes=11, in_shape=shape)
