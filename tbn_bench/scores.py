"""What a run is judged by: the names, units and directions of scores, stated once for tasks, command line and reports.

A score is stored as its task computes it (a fraction for accuracies and overlaps) under {val,test}/<name> in rows and summaries.
Beside scores a run logs losses, times and costs: `row_fields` and `summary_fields` name them all.
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
        return f"{self.factor * value:.{self.digits}f}" + (
            " %" if unit and self.factor == 100 else ""
        )

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
TASKS = {  # task -> its scores; the first one chooses the epoch
    "image_classification": ("top1", "top5"),
    "point_classification": ("top1", "top5", "class_accuracy"),
    "part_segmentation": ("instance_miou", "accuracy", "class_miou"),
    "semantic_segmentation": ("miou", "accuracy", "class_accuracy"),
    "forecasting": ("mse", "mae"),
}
# scores of the test set alone, by several views of each image (test-time augmentation)
AUGMENTED = {"image_classification": ("top1_tta",)}
COSTS = (
    "weights", "stored_bits", "stored_bits_weights", "tile_bits", "alpha_bits", "codebook_bits",
    "padding_bits", "bias_bits", "norm_bits", "other_bits", "stored_bytes", "bits_per_weight",
    "bits_per_binarized_weight", "macs", "distinct_macs", "additions", "bitops_fp64", "bitops_wxa",
    "bitops_wxa_distinct", "file_bytes",
)  # fmt: skip
REFERENCE, WEIGHTS_ONLY = "W32A32", "W1A32"
TRACKS = {  # bits of weights and activations -> in words; numbers of two tracks are in no table together
    REFERENCE: "full precision",
    WEIGHTS_ONLY: "weights only",
    "W1A1": "binary weights and activations",
    "W1A8": "8-bit activations",
    "W32A1": "binary activations, float weights",
}
IGNORED = -100  # label of points that stand in for missing ones: no loss and no score counts them
FIRST = "top1"  # of records that do not say: the first versions knew classification alone


def score_of(summary: Mapping[str, Any] | None) -> str:
    """Name of the score that a run was selected and is judged by. Raises ValueError for one that this version does not know."""
    name = str((summary or {}).get("score", FIRST))
    if name not in SCORES:
        raise ValueError(
            f"the record is judged by {name!r}; this version knows {', '.join(SCORES)}"
        )
    return name


def shown(summary: Mapping[str, Any] | None, split: str = "test") -> str:
    """'top-1 93.10 %', 'MSE 0.3712', or an em dash where the run has none."""
    score = SCORES[score_of(summary)]
    value = (summary or {}).get(f"{split}/{score_of(summary)}")
    return "—" if value is None else f"{score.label.removesuffix(' %')} {score.text(value)}"


_EPOCH = (
    "epoch", "step", "lr", "seconds", "epoch_cpu_seconds", "epoch_training_seconds", "train/loss", "val/loss",
    "tile/flip_rate", "tile/near_zero",
)  # fmt: skip
# what differs between two runs of one config: the times of the machine
TIMES = (
    "seconds",
    "epoch_cpu_seconds",
    "epoch_training_seconds",
    "cpu_seconds",
    "images_per_second",
)
_EFFORT = ("seconds", "cpu_seconds", "train_pflop", "images_per_second")
_COUNTS = ("best_epoch", "epochs", "test_samples", "train_samples")


def row_fields(task: str) -> tuple[str, ...]:
    """What the row of an epoch of this task can hold. An unlisted task may have any of SCORES."""
    scores = TASKS.get(task, tuple(SCORES))
    return (*_EPOCH, *(f"val/{name}" for name in scores))


def summary_fields(task: str) -> tuple[str, ...]:
    """The numbers that the summary of a finished run of this task can hold."""
    scores = TASKS.get(task, tuple(SCORES))
    chosen_by = scores[:1] if task in TASKS else scores
    tested = (*scores, *AUGMENTED.get(task, ()))
    last = tuple(f"val/{name}_last" for name in chosen_by)
    return ("test/loss", *(f"test/{name}" for name in tested), *last, *_EFFORT, *_COUNTS, *COSTS)


def goal_of(field: str) -> str | None:
    """The better direction of a field: "min" or "max"; None for lr, tile/flip_rate and the like."""
    split, _, name = field.rpartition("/")
    if field == "images_per_second":
        return "max"
    if field in TIMES or field in _EFFORT or field in COSTS or (split and name == "loss"):
        return "min"
    score = SCORES.get(name.removesuffix("_last").removesuffix("_tta"))
    return score.goal if split in ("val", "test") and score else None
