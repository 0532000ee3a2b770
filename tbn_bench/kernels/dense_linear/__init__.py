"""The full-precision linear layer: y = x W^T + bias. The others are compared with it.

x: (..., K) floating point, weight: (rows, K) of x's type, bias: (rows,) or None -> (..., rows).

Implementations: reference (sums written out; any type, float64 included), torch (the vendor's
product, any device), cpu (the native program's own float32 layer, which stem and classifier of a
packed network use). One that is asked for and cannot run raises.
"""

import importlib

# not `import torch`: in this folder that name is torch.py
from torch import Tensor, bfloat16, float16, float32, float64

IMPLEMENTATIONS = ("reference", "torch", "cpu")
TOLERANCE = {float64: 1e-13, float32: 3e-6, bfloat16: 3e-2, float16: 4e-3}  # of the largest value
# (x's leading shape, rows, K): ends of vectors and of blocks
CASES = (
    ((1,), 1, 1),
    ((5,), 16, 15),
    ((1,), 17, 64),
    ((2, 3), 63, 33),
    ((130,), 48, 100),
    ((3,), 8, 1023),
    ((0,), 8, 8),
)


def dense_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, implementation: str = "torch"
) -> Tensor:
    """The layer by one implementation.

    Raises ValueError for tensors that do not fit, NativeUnavailable where it cannot run.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"implementation must be one of {known}, got {implementation!r}")
    one_type = x.is_floating_point() and weight.dtype == x.dtype
    if not one_type or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "expected floating-point x (..., K) and weight (rows, K) of one type, "
            f"got {x.dtype} {tuple(x.shape)} and {weight.dtype} {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected bias of shape ({len(weight)},), got {tuple(bias.shape)}")
    module = importlib.import_module(f"{__name__}.{implementation}")
    return module.dense_linear(x, weight, bias)
