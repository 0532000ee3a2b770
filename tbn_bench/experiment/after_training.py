"""binarize_trained(model, data, ...): what a float network loses without further training."""

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.plan import Plan
from tbn_bench.experiment import given_data, given_model
from tbn_bench.experiment.given_data import Split
from tbn_bench.records import notebook
from tbn_bench.tasks._batch_norm import reestimate_

BATCHES = 8


@dataclass(frozen=True)
class Conversion:
    """A converted network and the top-1 accuracies, fractions, on the whole test set.

    network: binarized, with re-estimated batch norm, in eval mode. top1_float: of the given one.
    top1_binarized: before the re-estimation. top1: of the network.
    """

    network: nn.Module
    plan: Plan
    top1_float: float
    top1_binarized: float
    top1: float

    def __str__(self) -> str:
        lines = []
        for name, value in self._rows():
            line = f"{name:<34}{value:>8.2%}"
            lines.append(line)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for name, value in self._rows():
            row = (name, f"{value:.2%}")
            rows.append(row)
        head = ("network", "top-1 on the test set")
        return notebook.table(head, rows)

    def _rows(self) -> list[tuple[str, float]]:
        return [
            ("float", self.top1_float),
            ("binarized", self.top1_binarized),
            ("binarized, batch norm re-estimated", self.top1),
        ]


def binarize_trained(
    model: nn.Module,
    data: Any,
    binarizer: str,
    keep: tuple[str, ...] = (),
    batches: int = BATCHES,
    batch_size: int = 128,
) -> Conversion:
    """Binarizes a copy of a trained classifier and re-estimates its batch norm, without training.

    data: as in tb.train; the statistics are of `batches` training batches, held-out samples not
    among them, and the scores are on test. The given model stays as it is.
    Raises ValueError for data or a model that tb.train refuses, and for batches below 1.
    """
    if batches < 1:
        raise ValueError(f"batches must be at least 1, got {batches}")
    samples = given_data.read(data)
    classes = given_model.classes_of(model, samples.x)
    samples.checked_classes(classes)
    held = samples.held(Split(classes, None, 0), classes)
    module = held.make(batch_size=batch_size, seed=0)
    module.setup()
    network = copy.deepcopy(model).cpu().eval()
    top1_float = _top1(network, module)
    plan = binarize_(network, binarizer, keep)
    top1_binarized = _top1(network, module)
    few = itertools.islice(module.fixed_batches(batches * batch_size), batches)
    reestimate_(network, few)
    return Conversion(network, plan, top1_float, top1_binarized, _top1(network, module))


@torch.no_grad()
def _top1(network: nn.Module, module: Any) -> float:
    network.eval()
    right = 0
    for x, y in module.test_dataloader():
        prepared = module.prepare(x)
        outputs = network(prepared)
        predicted = outputs.argmax(1)
        hits = (predicted == y).sum()
        right += int(hits)
    size = int(module.size("test"))
    return right / size
