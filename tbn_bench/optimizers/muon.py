"""Muon: steps along the orthogonal factor of the momentum (Jordan et al., 2024).

Parameters that are not matrices are trained by SGD.

For a filter bank W, read as (rows, rest), gradient G, momentum mu, rate eta:

    M <- mu M + G,  N = G + mu M                      Nesterov's momentum
    W <- W sqrt(r) / |W|,  r = min(rows, rest)        `rescale`: the rate is a share of W's size
    W <- W - eta U V^T,    U V^T ~ N / |N| after 3 Newton-Schulz steps

where a Newton-Schulz step is X <- aX + b(XX^T)X + c(XX^T)^2 X.

The Newton-Schulz steps are in bfloat16 where the run's precision is bf16, as in the recipe, else in
float32. The coefficients and the recipe are those of KellerJordan/cifar10-airbench
(airbench94_muon; facts only, code ours). With `rescale` the size of W stays the same, and rate over
size tells how many signs of a binary weight turn in a step.

Float head, biases and norms are trained by SGD with Nesterov's momentum. Their rates are for a loss
summed over the batch, so they need no change when the batch size changes. Scales (tensors A, scales
of low_rank, codebooks of snn) are trained by Adam, whose step is relative to a tensor's size at the
start. scale_lr=0 freezes them, which also saves the time of their gradient.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.config import RunConfig
from tbn_bench.optimizers._base import Named, Parameters, check_range

A = 3.4445
B = -4.7750
C = 2.0315
STEPS = 3
ADAM_BETAS = (0.9, 0.99)


def orthogonal_factor(g: Tensor, steps: int = STEPS, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About U V^T of g = U S V^T, by Newton-Schulz steps in dtype.

    g: (rows, columns), as is the result.
    """
    tall = g.shape[0] > g.shape[1]
    x = (g.T if tall else g).to(dtype)
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=B, alpha=C)
        x = torch.addmm(x, polynomial, x, beta=A)
    return (x.T if tall else x).to(g.dtype)


def period(matrix: Tensor) -> int:
    """The number of rows after which a matrix (rows, columns) repeats; rows if it does not.

    The gradient of a tiled layer consists of equal blocks, one for each copy of the tile.
    """
    rows = len(matrix)
    same = (matrix[1:, 0] == matrix[0, 0]).nonzero()
    if not len(same):
        return rows
    k = int(same[0]) + 1
    if rows % k:
        return rows
    blocks = matrix.reshape(rows // k, -1)
    return k if torch.equal(blocks, blocks[:1].expand_as(blocks)) else rows


def orthogonal_factor_of_blocks(g: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """orthogonal_factor(g), computed from one of the equal blocks that g may consist of.

    For n blocks T, the singular values of g are sqrt(n) times those of T, and its left singular
    vectors are n copies over sqrt(n). So the factor of g consists of n copies of the factor of T,
    each divided by sqrt(n).

    g: (rows, columns), as is the result. The factors of g and T are the same up to rounding.
    """
    k = period(g)
    copies = len(g) // k
    factor = orthogonal_factor(g[:k], dtype=dtype)
    if copies == 1:
        return factor
    return (factor / math.sqrt(copies)).repeat(copies, 1)


class MuonOptimizer(torch.optim.Optimizer):
    """Groups have a `kind`: "muon", "sgd" or "adam".

    decay: the share that is taken off a parameter per step at the peak rate.
    """

    def __init__(self, groups: list[dict[str, Any]]):
        for group in groups:
            group["peak_lr"] = group["lr"]
        defaults = {
            "lr": 0.0,
            "momentum": 0.0,
            "decay": 0.0,
            "rescale": False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step. closure: evaluates the loss and its gradients, as in torch's optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rules = {"muon": self._muon, "sgd": self._sgd, "adam": self._adam}
        for group in self.param_groups:
            rule = rules[group["kind"]]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                share = group["decay"] * group["lr"] / group["peak_lr"]
                if share:
                    parameter.mul_(1 - share)
                rule(parameter, group)
        return loss

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        total = state["momentum"]
        total.mul_(momentum).add_(parameter.grad)
        return parameter.grad.add(total, alpha=momentum)

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        direction = self._nesterov(parameter, group["momentum"])
        matrix = direction.reshape(len(direction), -1)
        if group["rescale"]:
            size = math.sqrt(min(matrix.shape))
            parameter.mul_(size / parameter.norm().clamp_min(1e-12))
        dtype = torch.bfloat16 if group.get("bfloat16", True) else torch.float32
        step = orthogonal_factor_of_blocks(matrix, dtype=dtype).reshape(parameter.shape)
        parameter.add_(step, alpha=-group["lr"])

    def _sgd(self, parameter: Tensor, group: dict[str, Any]) -> None:
        direction = self._nesterov(parameter, group["momentum"])
        parameter.add_(direction, alpha=-group["lr"])

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        step = state["step"]
        beta1, beta2 = ADAM_BETAS
        gradient = parameter.grad
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(gradient.square(), 1 - beta2)

        mean = state["mean"] / (1 - beta1**step)
        square = state["square"] / (1 - beta2**step)
        root = square.sqrt_().add_(1e-12)
        parameter.addcdiv_(mean, root, value=-group["lr"])


def muon(
    parameters: Parameters,
    config: RunConfig,
    momentum: float = 0.6,
    rescale: bool = True,
    latent_weight_decay: float = 0.0,
    head_lr: float = 0.67,
    vector_lr: float = 0.053,
    side_momentum: float = 0.85,
    scale_lr: float = 0.0,
) -> torch.optim.Optimizer:
    """The config's rate is that of the filter banks.

    The config's weight_decay is the share that is taken off head and vectors per step at the peak
    rate. Latents lose latent_weight_decay, float matrices nothing.
    head_lr, vector_lr: rates of float head, and of biases and norms, for a loss summed over the
    batch. scale_lr: step of the scales, as a share of their size at the start.

    Raises ValueError for values out of range, and for a network without a matrix.
    """
    check_range("muon", "momentum", momentum, 0, 1)
    check_range("muon", "side_momentum", side_momentum, 0, 1)
    rates = {
        "head_lr": head_lr,
        "vector_lr": vector_lr,
        "scale_lr": scale_lr,
        "latent_weight_decay": latent_weight_decay,
    }
    for name, value in rates.items():
        check_range("muon", name, value, 0)
    if not parameters.latents and not parameters.matrices:
        listed = ", ".join([*parameters.head, *parameters.vectors]) or "none"
        raise ValueError(
            "muon needs a Linear or convolution weight beside the last layer: "
            "its step is the orthogonal factor of a matrix. "
            f"The parameters here are {listed}; use sgd or adamw"
        )
    side = {
        "kind": "sgd",
        "momentum": side_momentum,
        "decay": config.weight_decay,
    }
    filters = {
        "kind": "muon",
        "lr": config.lr,
        "momentum": momentum,
        "rescale": rescale,
        "bfloat16": config.precision == "bf16",
    }
    summed_head_lr = head_lr * config.batch_size
    summed_vector_lr = vector_lr * config.batch_size
    groups = [
        _group(parameters.latents, filters, decay=latent_weight_decay),
        _group(parameters.matrices, filters),
        _group(parameters.head, side, lr=summed_head_lr),
        _group(parameters.vectors, side, lr=summed_vector_lr),
        *_scale_groups(parameters.scales, scale_lr),
    ]
    return MuonOptimizer([group for group in groups if group["params"]])


def _group(named: Named, shared: dict[str, Any], **own: float) -> dict[str, Any]:
    return {"params": list(named.values()), **shared, **own}


def _scale_groups(scales: Named, rate: float) -> list[dict[str, Any]]:
    """A group for each tensor of scales. A rate of 0 freezes the tensors and gives no group."""
    if not rate:
        for parameter in scales.values():
            parameter.requires_grad_(False)
        return []
    groups = []
    for parameter in scales.values():
        lr = rate * _size(parameter)
        groups.append({"params": [parameter], "kind": "adam", "lr": lr})
    return groups


def _size(parameter: nn.Parameter) -> float:
    """Root mean square; 1 where it is 0 or not known."""
    if parameter.is_meta:
        return 1.0
    values = parameter.detach().float()
    size = values.square().mean().sqrt()
    return float(size) or 1.0
