"""AdaBin (Tu et al., arXiv 2208.08084, section 3): two values per filter that need not be +-alpha.

W1A1, or W1A32 with activations=False.

Forward   per output channel: beta = mean W, alpha = population standard deviation of W,
          B = alpha * sign((W - beta) / alpha) + beta
          activations, alpha_a (1 at first) and beta_a (0) learned per layer:
          form="paper"     alpha_a * sign((a - beta_a) / alpha_a) + beta_a
          form="released"  alpha_a * (sign((a - beta_a) / alpha_a) + beta_a)
                           the published code: a re-parametrised offset
          sign(0) = +1
Backward  weights: EDE (k, t as irnet) on the standardised value, then autograd through alpha and
          beta, which are not constants
          activations: g' * max(0, 2 - 2|u|) at u = (a - beta_a) / alpha_a, then autograd through
          alpha_a and beta_a
Network   the paper's Maxout is an activation of the network:
          resnet_cifar(activation="maxout", shortcuts="conv")
Cost      beta needs a sum of inputs per window at inference; MACs do not show it
Stored    N bits, a 32-bit scale and a 32-bit offset per output channel; two 32-bit numbers per
          layer for its activations. Biases and normalisation stay full precision.

Raises ValueError for a layer with a channel of standard deviation 0.
"""

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    EDESchedule,
    Target,
    WeightBinarizer,
    approx_sign,
    channels,
    ede,
    has_flat_channel,
    sign,
)
from tbn_bench.format.form import Form


class AdaBinWeight(EDESchedule, WeightBinarizer):
    """Buffers k, t: () as irnet's."""

    def __init__(self) -> None:
        super().__init__()
        self.start_schedule(1e-3, 10.0)

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        beta = self.offsets(weight)[:, None]
        alpha = self.scales(weight)[:, None]
        signs = ede((rows - beta) / alpha, self.k, self.t)
        return self.noted((alpha * signs + beta).reshape(weight.shape))

    def signs(self, weight: Tensor) -> Tensor:
        beta = self.offsets(weight)[:, None]
        signs = sign(weight.flatten(1) - beta)
        return signs.reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.flatten(1).std(1, correction=0)

    def offsets(self, weight: Tensor) -> Tensor:
        return weight.flatten(1).mean(1)

    def form(self, weight: Tensor) -> Form:
        return Form(tuple(weight.shape), scales=weight.shape[0], offsets=True)


class AdaBinActivation(ActivationBinarizer):
    """Parameters alpha, beta: ()."""

    def __init__(self, form: str):
        super().__init__()
        self.form = form
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        signs = approx_sign((x - self.beta) / self.alpha)
        if self.form == "released":
            return self.alpha * (signs + self.beta)
        return self.alpha * signs + self.beta


class AdaBin(Binarizer):
    def __init__(self, activations: bool = True, form: str = "paper"):
        if form not in ("paper", "released"):
            raise ValueError(f"adabin: form must be 'paper' or 'released', got {form!r}")
        self.activations = activations
        self.form = form

    def decide(self, targets: list[Target]) -> list[Decision]:
        flat = [t.name for t in targets if has_flat_channel(t.weight)]
        if flat:
            raise ValueError(
                "adabin divides by the standard deviation of each output channel, "
                f"which is 0 in {', '.join(flat)}; keep them"
            )
        return super().decide(targets)

    def layer(self, target: Target) -> Decision:
        return Decision(AdaBinWeight(), "binary, a scale and an offset per output channel")

    def activation(self, target: Target) -> AdaBinActivation | None:
        if not self.activations:
            return None
        channels(target)
        return AdaBinActivation(self.form)
