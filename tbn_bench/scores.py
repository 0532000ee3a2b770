"""Names, units and directions of scores, for tasks, command line and reports.

A score is stored as its task computes it (a fraction for accuracies and overlaps), under
{val,test}/<name> in rows and summaries. records/summary.py names the other fields of a run: losses,
times and costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A measure of how well a network does.

    label: as in a table's head. factor: from the stored number to the shown one. goal: "max" or
    "min".
    """

    label: str
    factor: float
    digits: int
    goal: str

    def text(self, value: float, unit: bool = True) -> str:
        """93.10 % or 0.3712."""
        number = f"{self.factor * value:.{self.digits}f}"
        is_percentage = self.factor == 100
        return f"{number} %" if unit and is_percentage else number

    def signed(self, value: float) -> float:
        """The value, or its negative where less is better: the larger result is the better one."""
        return value if self.goal == "max" else -value

    @property
    def axis(self) -> str:
        """For the axis of a figure, with its unit and direction."""
        direction = "higher" if self.goal == "max" else "lower"
        return f"{self.label}, {direction} is better"


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
    "bits_per_byte": Score("bits per byte", 1, 4, "min"),
    "nats_per_token": Score("nats per token", 1, 4, "min"),
}
TASKS = {  # task -> its scores; the first one chooses the epoch
    "image_classification": ("top1", "top5"),
    "point_classification": ("top1", "top5", "class_accuracy"),
    "part_segmentation": ("instance_miou", "accuracy", "class_miou"),
    "semantic_segmentation": ("miou", "accuracy", "class_accuracy"),
    "forecasting": ("mse", "mae"),
    "next_token": ("bits_per_byte", "nats_per_token"),
}
# scores of only the test set, by several views of each image (test-time augmentation)
AUGMENTED = {"image_classification": ("top1_tta",)}
# Every score of a test set that a table may name.
NAMED = SCORES | {"top1_tta": Score("top-1 with test-time augmentation, %", 100, 2, "max")}
REFERENCE = "W32A32"
WEIGHTS_ONLY = "W1A32"
# Bits of weights and activations -> in words. No table mixes the numbers of two tracks.
TRACKS = {
    REFERENCE: "full precision",
    WEIGHTS_ONLY: "weights only",
    "W1A1": "binary weights and activations",
    "W1A8": "8-bit activations",
    "W32A1": "binary activations, float weights",
}
IGNORED = -100  # label of points that fill a sample: no loss and no score counts them
FIRST = "top1"  # score of records that name none: the first versions had only classification


def score_of(summary: Mapping[str, Any] | None) -> str:
    """Name of the score that chose a run's epoch, and that the run is compared by.

    Raises ValueError for a score that this version does not know.
    """
    name = str((summary or {}).get("score", FIRST))
    if name not in SCORES:
        raise ValueError(
            f"the record is judged by {name!r}; this version knows {', '.join(SCORES)}"
        )
    return name


def shown(summary: Mapping[str, Any] | None, split: str = "test") -> str:
    """'top-1 93.10 %', 'MSE 0.3712', or an em dash where the run has none."""
    name = score_of(summary)
    score = SCORES[name]
    value = (summary or {}).get(f"{split}/{name}")
    if value is None:
        return "—"
    label = score.label.removesuffix(" %")
    return f"{label} {score.text(value)}"
