"""What a run is judged by: the names, units and directions of scores, stated once for tasks, command line and reports.

A score is stored as its task computes it (a fraction for accuracies and overlaps) under {val,test}/<name> in rows and summaries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """label: as in a table's head. factor: from the stored number to the shown one. goal: "max" or "min"."""

    label: str
    factor: float
    digits: int
    goal: str

    def text(self, value: float, unit: bool = True) -> str:
        """93.10 % or 0.3712."""
        return f"{self.factor * value:.{self.digits}f}" + (" %" if unit and self.factor == 100 else "")

    def signed(self, value: float) -> float:
        """More is better."""
        return value if self.goal == "max" else -value

    @property
    def axis(self) -> str:
        """For the axis of a figure, with its unit and direction."""
        return f"{self.label}, {'higher' if self.goal == 'max' else 'lower'} is better"


SCORES = {
    "top1": Score("top-1 %", 100, 2, "max"),
    "top5": Score("top-5 %", 100, 2, "max"),
    "class_accuracy": Score("class accuracy %", 100, 2, "max"),
    "instance_miou": Score("instance mIoU %", 100, 2, "max"),
    "class_miou": Score("class mIoU %", 100, 2, "max"),
    "miou": Score("mIoU %", 100, 2, "max"),
    "accuracy": Score("point accuracy %", 100, 2, "max"),
    "mse": Score("MSE", 1, 4, "min"),
    "mae": Score("MAE", 1, 4, "min"),
}
FIRST = "top1"  # of records that do not say: the first versions knew classification alone


def score_of(summary: Mapping[str, Any] | None) -> str:
    """Name of the score that a run was selected and is judged by. Raises ValueError for one that this version does not know."""
    name = str((summary or {}).get("score", FIRST))
    if name not in SCORES:
        raise ValueError(f"the record is judged by {name!r}; this version knows {', '.join(SCORES)}")
    return name


def shown(summary: Mapping[str, Any] | None, split: str = "test") -> str:
    """'top-1 93.10 %', 'MSE 0.3712', or an em dash where the run has none."""
    score = SCORES[score_of(summary)]
    value = (summary or {}).get(f"{split}/{score_of(summary)}")
    return "—" if value is None else f"{score.label.removesuffix(' %')} {score.text(value)}"
