"""The loss of a trained network after each layer alone was tiled, at each p.

A layer's latent weight is projected onto its tile by tbn's rule (tiling.py): the sign of the sums
of p weights, and the mean magnitudes as scales. All other layers stay as they are. Nothing is
trained after it. Batch norm takes its statistics from each batch, with and without a tile, so that
the loss does not count what batch norm would correct.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tbn_bench import tiling
from tbn_bench.binarizers import _budget
from tbn_bench.config import make
from tbn_bench.convert import pack
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import build, weights
from tbn_bench.format.layouts import Copies
from tbn_bench.records.run import RunRecord
from tbn_bench.tasks._base import Task, binary_weights
from tbn_bench.tasks._batch_norm import norms

PS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Options:
    """ps: the p to try, where they divide a layer's rows. batches: of held-out samples.

    copies, alpha: as tbn's.
    """

    ps: tuple[int, ...] = PS
    batches: int = 4
    copies: str = "aligned"
    alpha: str = "tile"

    def check(self) -> None:
        """Raises ValueError for a p below 1, and for a layout whose kernel is larger."""
        wrong = [p for p in self.ps if p < 1]
        if wrong or not self.ps:
            raise ValueError(f"--p takes whole numbers from 1 on, got {wrong or 'none'}")
        if self.copies == "shifted":
            raise ValueError(
                "shifted copies change the shape of a layer; measure another layout, or none"
            )

    def copies_of(self, shape: tuple[int, ...], p: int) -> Copies | None:
        """The layout of a weight at p; None: aligned, also where the layout does not fit."""
        if self.copies == "aligned" or p == 1:
            return None
        try:
            return Copies(shape, p, self.copies)  # type: ignore[arg-type]
        except ValueError:
            return None


class Bench:
    """A trained network on held-out batches, whose layers can be tiled and restored.

    Raises ValueError for a run without a checkpoint or without held-out samples, and for a method
    whose latent weights do not learn.
    """

    def __init__(self, record: RunRecord, options: Options):
        options.check()
        self.options = options
        self.config = make(record.config)
        found = weights.trained(record)
        self.latents = _latents(found)
        self.model = pack.dense(found.model).eval()
        self.task: Task = build.build_task(self.config, found.data, self.model)
        self.task.eval()
        for norm in norms(self.model):
            norm.train()
            norm.momentum = 0.0  # its own statistics stay
        found.data.setup()
        self.batches = list(_held_out(found.data, options.batches))
        self.samples = sum(len(y) for _, y in self.batches)

    @torch.no_grad()
    def loss(self) -> float:
        """Mean over the batches, as the network is now."""
        total = 0.0
        for x, y in self.batches:
            total += self.task.evaluation_loss(self.model(x), y).item() * len(y)
        return total / self.samples

    def loss_with(self, chosen: dict[str, int]) -> float:
        """The loss with these layers tiled at these p. The network is then what it was."""
        parameters = {name: self.model.get_parameter(name) for name in chosen}
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        try:
            for name, p in chosen.items():
                tiled = self.tiled(name, p)
                parameters[name].data.copy_(tiled)
            return self.loss()
        finally:
            for name, value in before.items():
                parameters[name].data.copy_(value)

    def tiled(self, name: str, p: int) -> Tensor:
        """The weight that tbn would compute from the latent one, with alphas from it too."""
        latent = self.latents[name]
        copies = self.options.copies_of(tuple(latent.shape), p)
        kind: tiling.AlphaKind = "tile" if self.options.alpha == "tile" else "layer"
        alphas = tiling.alphas(latent, p, kind)
        return tiling.expand(tiling.tile(latent, p, copies), alphas, p, latent.shape, copies)

    def possible(self, name: str) -> list[int]:
        """The p that are tried for a layer: those that divide its rows."""
        rows = self.latents[name].shape[0]
        return [p for p in sorted(set(self.options.ps)) if rows % p == 0]


def measure(record: RunRecord, options: Options) -> tuple[Bench, dict[str, Any]]:
    """(the network, the content of the file that tbn_budget(path=...) reads)."""
    bench = Bench(record, options)
    base = bench.loss()
    layers = []
    for name, latent in bench.latents.items():
        losses = {str(p): bench.loss_with({name: p}) for p in bench.possible(name)}
        layers.append({"name": name, "numel": latent.numel(), "loss": losses})
    found = {
        "schema_version": 1,
        "run": f"{record.sweep}/{record.run_id}",
        "data": bench.config.data,
        "model": bench.config.model,
        "binarizer": bench.config.binarizer,
        "seed": bench.config.seed,
        "copies": options.copies,
        "alpha": options.alpha,
        "samples": bench.samples,
        "loss": base,
        "layers": layers,
    }
    return bench, found


def layers_of(found: dict[str, Any], path: str) -> list[_budget.Layer]:
    """The layers of a file of measured losses. Raises ValueError for another content."""
    damages = _budget.measured(found, path)
    numel = {str(row["name"]): int(row["numel"]) for row in found["layers"]}
    return [_budget.Layer(name, numel[name], damage) for name, damage in damages.items()]


def _latents(found: build.Experiment) -> dict[str, Tensor]:
    """Name -> latent weight of every layer that a method would binarize, in the plan's order."""
    if found.config.binarizer == "full_precision":
        free = [row.names[0] for row in found.plan.rows if row.reason != "kept"]
        return {name: found.model.get_parameter(name).detach() for name in free}
    latents = {}
    for name, method, latent in binary_weights(found.model):
        if not method.learns_latent:
            raise ValueError(
                f"{found.config.binarizer} does not learn latent weights; "
                "allocate from a run of bwn or full_precision"
            )
        latents[name] = latent.detach()
    return latents


def _held_out(data: Any, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Raises ValueError where the data set holds no samples out."""
    loader: Iterable[tuple[Tensor, Tensor]] = data.val_dataloader()
    seen = 0
    for batch in loader:
        if seen == batches:
            return
        seen += 1
        yield data.prepared(batch)
    if not seen:
        raise ValueError("the run holds no samples out (val_size=0); allocate from another run")


def check_order(bench: Bench) -> None:
    """Raises ValueError unless tbn's list of p would be in the order of the measured layers."""
    structure = build.sketch(bench.config.model_copy(update={"binarizer": "full_precision"}))
    plan = binarize_(structure.model, "tbn(p=1)", bench.config.keep)
    own = [row.names[0] for row in plan.rows if row.binarized]
    if own != list(bench.latents):
        raise ValueError(
            f"the network's weights are {', '.join(own)}, the run's are {', '.join(bench.latents)}"
        )
