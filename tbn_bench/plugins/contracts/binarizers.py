"""What every binarizer does with a network of linear layers, and with one of convolutions."""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tbn_bench import catalog, convert
from tbn_bench.binarizers import _contract
from tbn_bench.convert.binarize import binarize_, binarize_inputs_
from tbn_bench.convert.cost import cost
from tbn_bench.convert.plan import Plan
from tbn_bench.format import packed_file
from tbn_bench.plugins.contracts.rule import Broken, Rule, require
from tbn_bench.tasks._base import binary_weights

NETWORKS = {
    "mlp(hidden=[24, 40])": (1, 6, 6),
    "resnet_cifar(depth=8, width=4)": (3, 8, 8),
}
CLASSES = 8
SAMPLES = 16
TOLERANCE = 1e-5


def network(model: str, binarizer: str) -> tuple[nn.Module, Plan]:
    """A small binarized network, with weights from seed 0."""
    torch.manual_seed(0)
    built = catalog.build("models", model, num_classes=CLASSES, in_shape=NETWORKS[model])
    return built, binarize_(built, binarizer)


def _networks(binarizer: str) -> Iterator[tuple[str, nn.Module, Plan]]:
    """Those that the method takes. Raises Broken where it refuses each."""
    refused = []
    for model in NETWORKS:
        try:
            yield model, *network(model, binarizer)
        except ValueError as error:
            refused.append(f"{model}: {error}")
    if len(refused) == len(NETWORKS):
        raise Broken(f"it refuses every small network; {'; '.join(refused)}")


def _batch(model: str) -> Tensor:
    shape = NETWORKS[model]
    return torch.randn(SAMPLES, *shape)


def _backward(built: nn.Module, x: Tensor) -> None:
    """Gradients of one batch, in training."""
    built.train()
    y = built(x)
    loss = y.square().mean()
    torch.autograd.backward([loss])


def stored_form(binarizer: str) -> None:
    """Every weight keeps the promises of binarizers/_contract.py."""
    for model, built, _ in _networks(binarizer):
        for name, method, latent in binary_weights(built):
            found = _contract.fault(method, latent)
            require(not found, f"{type(method).__name__} at {name} of {model}: {found}")


def learns(binarizer: str) -> None:
    """After one batch every parameter that learns has a finite gradient."""
    for model, built, _ in _networks(binarizer):
        _backward(built, _batch(model))
        for name, parameter in built.named_parameters():
            if parameter.requires_grad:
                gradient = parameter.grad
                finite = gradient is not None and bool(gradient.isfinite().all())
                got = "none" if gradient is None else "NaN or infinity"
                require(
                    finite,
                    f"{name} of {model}: expected a finite gradient, got {got}; freeze what does "
                    "not learn by requires_grad_(False) or learns_latent = False",
                )


def packs(binarizer: str) -> None:
    """The packed file weighs what the plan counts, and gives the trained network's outputs."""
    for model, built, plan in _networks(binarizer):
        x = _batch(model)
        _backward(built, x)
        packs_to_what_was_counted(model, binarizer, built, plan, x)


def packs_to_what_was_counted(
    model: str, binarizer: str, built: nn.Module, plan: Plan, x: Tensor
) -> None:
    """The same for a network that has taken a step. x: (B, *in_shape). Packs `built`."""
    shape = NETWORKS[model]
    with torch.no_grad():
        expected = built.eval()(x)
    total = cost(built, plan, shape)
    dense = {name: p.numpy() for name, p in convert.dense(built).state_dict().items()}
    if not any(row.binarized for row in plan.rows):
        return
    convert.pack_(built)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.safetensors"
        convert.save(built.eval(), file)
        content = packed_file.read(file)
        blank = catalog.build("models", model, num_classes=CLASSES, in_shape=shape)
        binarize_inputs_(blank, binarizer)
        loaded = convert.load_(blank, file)
    require(
        content.payload_bytes == total.stored_bytes,
        f"{model}: the file weighs {content.payload_bytes} bytes, the plan says "
        f"{total.stored_bytes}; num_scales and form must describe what scales and signs return",
    )
    for name, value in content.dense().items():
        require(bool((dense[name] == value).all()), f"{model}: {name} is not its stored form")
    with torch.no_grad():
        near = torch.allclose(built(x), expected, rtol=TOLERANCE, atol=TOLERANCE)
        require(near, f"{model}: the packed network gives other outputs than the trained one")
        require(torch.equal(loaded(x), built(x)), f"{model}: the file gives other outputs")


def resumes(binarizer: str) -> None:
    """A checkpoint holds all of a method's state: the weights come back bit by bit."""
    for model, built, _ in _networks(binarizer):
        _backward(built, _batch(model))
        state = copy.deepcopy(built.state_dict())
        other, _ = network(model, binarizer)
        other.load_state_dict(state)
        pairs = zip(binary_weights(built.eval()), binary_weights(other.eval()), strict=True)
        for (name, method, latent), (_, again, its_latent) in pairs:
            with torch.no_grad():
                same = torch.equal(method(latent), again(its_latent))
            require(
                same,
                f"{name} of {model}: the weight differs after a checkpoint is loaded; make every "
                "tensor that decides it a parameter or a buffer",
            )


def plans_without_weights(binarizer: str) -> None:
    """A plan on torch's meta device needs shapes alone."""
    for model, _, plan in _networks(binarizer):
        with torch.device("meta"):
            _, on_meta = network(model, binarizer)
        require(
            [row.record() for row in on_meta.rows] == [row.record() for row in plan.rows],
            f"{model}: the plan on the meta device differs; decide from shapes, not from values",
        )


RULES = (
    Rule("its stored form is its forward pass, and it learns", stored_form),
    Rule("every parameter gets a finite gradient", learns),
    Rule("it packs to what was counted, and the file gives its outputs", packs),
    Rule("a checkpoint holds all of its state", resumes),
    Rule("it plans without weights", plans_without_weights),
)
