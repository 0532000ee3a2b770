"""What every model does with random samples of its kind."""

import copy

import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.convert.binarize import binarize_
from tbn_bench.plugins.contracts.rule import Rule, require

IN_SHAPE = (3, 32, 32)
CLASSES = 10


def built(call: str) -> nn.Module:
    """The model for ten classes of images of 3 x 32 x 32, with weights from seed 0."""
    torch.manual_seed(0)
    model = catalog.build("models", call, num_classes=CLASSES, in_shape=IN_SHAPE)
    require(
        isinstance(model, nn.Module),
        f"expected a torch.nn.Module, got {type(model).__name__}; return the network",
    )
    found: nn.Module = model
    return found


def outputs(call: str) -> None:
    """(B, 3, 32, 32) -> (B, 10), finite, and the same for one sample alone."""
    model = built(call).eval()
    x = torch.randn(4, *IN_SHAPE)
    with torch.no_grad():
        y = model(x)
        alone = model(x[:1])
    got = tuple(y.shape)
    require(got == (4, CLASSES), f"expected outputs of shape (4, {CLASSES}), got {got}")
    require(bool(y.isfinite().all()), "expected finite outputs, got NaN or infinity")
    near = torch.allclose(alone, y[:1], rtol=1e-3, atol=1e-4)
    require(near, "one sample alone gives other outputs than in its batch, in evaluation")


def learns(call: str) -> None:
    """Every parameter gets a gradient, binarized or not."""
    for binarizer in ("full_precision", "sign"):
        model = built(call)
        binarize_(model, binarizer)
        model.train()(torch.randn(4, *IN_SHAPE)).square().mean().backward()
        for name, parameter in model.named_parameters():
            unused = parameter.requires_grad and parameter.grad is None
            require(not unused, f"{name} gets no gradient with {binarizer}; forward must use it")


def copies(call: str) -> None:
    """A deep copy gives the same outputs, as packing and export need it."""
    model = built(call).eval()
    x = torch.randn(2, *IN_SHAPE)
    with torch.no_grad():
        same = torch.equal(copy.deepcopy(model)(x), model(x))
    require(same, "a deep copy gives other outputs; keep all state in parameters and buffers")


RULES = (
    Rule("it maps samples to one number per class", outputs),
    Rule("every parameter gets a gradient", learns),
    Rule("a copy gives the same outputs", copies),
)
