"""The test score of an implementation of a trained network, against the recorded score."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.config import make
from tbn_bench.experiment.build import build_task
from tbn_bench.records.run import RunRecord
from tbn_bench.scores import FIRST

_POINTS = 0.0005  # of accuracy
_SHARE = 1e-3  # of other scores


@dataclass(frozen=True)
class Comparison:
    """The score that was found, the record's, and how far they may differ."""

    found: float
    recorded: float
    allowed: float

    @property
    def agrees(self) -> bool:
        difference = abs(self.found - self.recorded)
        return difference <= self.allowed


def outputs(
    call: Callable[[Tensor], Tensor], data: Any, device: str = "cpu", most: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """(outputs of call, y) of every test batch, on the CPU. most: only so many first samples."""
    left = data.size("test") if most is None else most
    with torch.no_grad():
        for x, y in data.test_dataloader():
            if left <= 0:
                return
            used = x[:left].to(device)
            yield call(data.prepare(used)).cpu(), y[:left]
            left -= len(used)


def score_on_test(
    record: RunRecord, data: Any, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> Comparison:
    """The score of these (outputs, y) by the task's own metric.

    An accuracy may differ by one sample or 0.05 points, another score by a thousandth, because a
    packed network adds in another order.
    """
    task = build_task(make(record.config), data, model)
    metric = task.scores()[task.score]
    for found, y in batches:
        metric.update(found, y)
    summary = record.summary or {}
    recorded = float(summary[f"test/{task.score}"])
    allowed = tolerance(task.score, recorded, data.size("test"))
    return Comparison(float(metric.compute()), recorded, allowed)


def tolerance(score: str, recorded: float, samples: int) -> float:
    """How far a score that is computed again may be from the recorded one."""
    if score == FIRST:
        return max(1.5 / samples, _POINTS)
    return _SHARE * recorded


def precision_hint(record: RunRecord) -> str:
    """Why a file may miss the score of this record; '' for a run that was trained in float32."""
    precision = record.config.get("precision", "32")
    if precision == "32":
        return ""
    return (
        f" (trained in {precision}; early versions tested such runs in {precision} too, "
        "while a file computes in float32: train it again with this version)"
    )
