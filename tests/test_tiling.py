import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbn_bench import tiling

W = torch.tensor([[1.0, -2.0, 3.0, 0.5], [-1.0, 1.0, 1.0, -2.0]])  # N = 8, p = 2, q = 4


def test_tile_by_hand():
    """Columns sum to 0, -1, 4, -1.5: the zero gives -1."""
    assert tiling.aggregate(W, 2).tolist() == [0.0, -1.0, 4.0, -1.5]
    assert tiling.tile(W, 2).tolist() == [-1.0, -1.0, 1.0, -1.0]


def test_alphas_by_hand():
    """Mean |W| per row of W*, and over the layer."""
    assert tiling.alphas(W, 2, "tile").tolist() == [1.625, 1.25]
    assert tiling.alphas(W, 2, "layer").tolist() == [1.4375]


def test_expand_by_hand():
    """Block i is alpha_i times the tile, row-major."""
    out = tiling.expand(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 3.0]), 2, (2, 2))
    assert out.tolist() == [[2.0, -2.0], [3.0, -3.0]]


def test_p_one_is_sign():
    """p = 1 is the sign of W."""
    w = torch.randn(3, 5)
    assert torch.equal(tiling.tile(w, 1).reshape(3, 5), tiling.sign(w))


@given(st.integers(1, 400), st.integers(1, 400))
def test_nearest_p_is_nearest(n, q):
    """No divisor of n gives a tile length nearer to q."""
    p = tiling.nearest_p(n, q)
    assert n % p == 0
    assert abs(n // p - q) == min(abs(n // d - q) for d in range(1, n + 1) if n % d == 0)


@pytest.mark.parametrize("p", [0, -1, 2.0, True, 3])
def test_bad_p(p):
    """A p that is no positive divisor is refused with the layer's name and the p that would do."""
    with pytest.raises(ValueError, match="layer conv1.*use"):
        tiling.tile_length(64, p, "conv1")


def _gradient(kind, alphas):
    w = W.double().requires_grad_()
    g = torch.arange(8.0, dtype=torch.float64).reshape(2, 4)
    tiling.tiled_weight(w, alphas.double(), 2, kind).backward(g)
    return w.grad, g


def test_elementwise_gradient_is_identity_times_alpha():
    """dL/dW_k = alpha_i * dL/dBhat_k: not summed over copies, not clipped."""
    grad, g = _gradient("elementwise", torch.tensor([2.0, 3.0]))
    assert torch.equal(grad, g * torch.tensor([[2.0], [3.0]], dtype=torch.float64))


def test_tile_gradient_shares_equally_and_moves_the_sums_alike():
    """Both copies get half of dL/dt; the column sums of both rules agree."""
    elementwise, _ = _gradient("elementwise", torch.tensor([2.0, 3.0]))
    shared, _ = _gradient("tile", torch.tensor([2.0, 3.0]))
    assert torch.equal(shared[0], shared[1])
    assert torch.equal(shared.sum(0), elementwise.sum(0))


def test_alpha_from_w_adds_its_own_gradient():
    """With alphas from W, dL/dW has the extra term sign(W)/q * sum_j t_j g_j."""
    w = W.double().requires_grad_()
    g = torch.arange(8.0, dtype=torch.float64).reshape(2, 4)
    alphas = tiling.alphas(w, 2, "tile")
    tiling.tiled_weight(w, alphas, 2, "elementwise").backward(g)
    t = tiling.tile(W.double(), 2)
    expected = alphas[:, None] * g + W.double().sign() / 4 * (g * t).sum(1, keepdim=True)
    assert torch.allclose(w.grad, expected, rtol=0, atol=1e-15)
