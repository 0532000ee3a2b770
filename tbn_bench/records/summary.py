"""The fields of a run's rows and summary, stated once: for checks, sweeps, tables and commands.

Scores are stored under {val,test}/<name> (scores.py). Besides them a run records losses, times,
effort and costs.
"""

from tbn_bench.scores import AUGMENTED, SCORES, TASKS

# of a network: convert/cost.py computes all but file_bytes
COSTS = (
    "weights",
    "stored_bits",
    "stored_bits_weights",
    "tile_bits",
    "alpha_bits",
    "codebook_bits",
    "padding_bits",
    "bias_bits",
    "norm_bits",
    "other_bits",
    "stored_bytes",
    "bits_per_weight",
    "bits_per_binarized_weight",
    "macs",
    "distinct_macs",
    "activation_macs",
    "additions",
    "bitops_fp64",
    "bitops_wxa",
    "bitops_wxa_distinct",
    "file_bytes",
)
EFFORT = ("seconds", "cpu_seconds", "train_pflop", "images_per_second")
COUNTS = ("best_epoch", "epochs", "test_samples", "train_samples")
FIRST_COSTS = (
    "weights",
    "stored_bits",
    "stored_bits_weights",
    "tile_bits",
    "alpha_bits",
    "bias_bits",
    "norm_bits",
    "other_bits",
    "stored_bytes",
    "bits_per_weight",
    "macs",
    "distinct_macs",
)
# numbers that the summaries of all versions have, the first one included
ALWAYS = (*COUNTS, "seconds", "test/loss", *FIRST_COSTS)
_EPOCH = (
    "epoch",
    "step",
    "lr",
    "seconds",
    "epoch_cpu_seconds",
    "epoch_training_seconds",
    "train/loss",
    "val/loss",
    "tile/flip_rate",
    "tile/near_zero",
)
# times of the machine: they differ between two runs of one config
TIMES = (
    "seconds",
    "epoch_cpu_seconds",
    "epoch_training_seconds",
    "cpu_seconds",
    "images_per_second",
)


def row_fields(task: str) -> tuple[str, ...]:
    """Fields that the row of an epoch of this task can hold.

    A task that scores.TASKS does not list may have any of SCORES.
    """
    scores = TASKS.get(task, tuple(SCORES))
    return (*_EPOCH, *(f"val/{name}" for name in scores))


def summary_fields(task: str) -> tuple[str, ...]:
    """The numbers that the summary of a finished run of this task can hold."""
    scores = TASKS.get(task, tuple(SCORES))
    chosen_by = scores[:1] if task in TASKS else scores
    tested = (*scores, *AUGMENTED.get(task, ()))
    last = tuple(f"val/{name}_last" for name in chosen_by)
    return ("test/loss", *(f"test/{name}" for name in tested), *last, *EFFORT, *COUNTS, *COSTS)


def goal_of(field: str) -> str | None:
    """The better direction of a field: "min" or "max"; None for lr, tile/flip_rate and the like."""
    split, _, name = field.rpartition("/")
    if field == "images_per_second":
        return "max"
    if field in (*TIMES, *EFFORT, *COSTS) or (split and name == "loss"):
        return "min"
    if split not in ("val", "test"):
        return None
    score = SCORES.get(name.removesuffix("_last").removesuffix("_tta"))
    return None if score is None else score.goal
