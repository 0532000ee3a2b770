"""What an exported graph must be told: how its input was normalised, its classes, its run.

A graph that gets raw pixels where it was trained on normalised ones still answers, and wrongly.
Each file therefore says what it expects; with `--fold-normalisation` the graph does it itself.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.records.run import RunRecord
from tbn_bench.scores import score_of

KEY = "tbn_bench."  # before each key in a file's metadata
PIXELS = "pixels from 0 to 1"


class Normalised(nn.Module):
    """A network behind its normalisation. x: (B, C, *size), pixels from 0 to 1."""

    def __init__(self, network: nn.Module, data: Any):
        super().__init__()
        self.network = network
        axes = [1] * (len(data.in_shape) - 1)
        self.register_buffer("mean", torch.tensor(data.mean).reshape(-1, *axes))
        self.register_buffer("std", torch.tensor(data.std).reshape(-1, *axes))

    def forward(self, x: Tensor) -> Tensor:
        normalised = (x - self.get_buffer("mean")) / self.get_buffer("std")
        y: Tensor = self.network(normalised)
        return y


def is_normalised(data: Any) -> bool:
    """Whether a data set is of images that are normalised by a mean and a deviation."""
    has_both = hasattr(data, "mean") and hasattr(data, "std")
    return has_both and len(data.in_shape) == 3


def pixels(data: Any, x: Tensor) -> Tensor:
    """Normalised images as pixels from 0 to 1 again. x: (B, C, H, W)."""
    mean = torch.tensor(data.mean).reshape(-1, 1, 1)
    std = torch.tensor(data.std).reshape(-1, 1, 1)
    return x * std + mean


def metadata(record: RunRecord, data: Any, folded: bool) -> dict[str, str]:
    """Key -> value, both text, for the metadata of an exported graph. Lists are JSON."""
    summary = record.summary or {}
    config = record.config
    score = score_of(summary)
    found: dict[str, Any] = {
        "run": f"{record.sweep}/{record.run_id}",
        "data": config["data"],
        "model": config["model"],
        "binarizer": config["binarizer"],
        "commit": record.provenance.get("commit"),
        "score": f"test/{score}",
        "score_value": summary.get(f"test/{score}"),
        "input_size": list(data.in_shape),
        "classes": _classes(data),
        "input": "as the data set prepares it",
    }
    if is_normalised(data):
        found["mean"] = list(data.mean)
        found["std"] = list(data.std)
        found["input"] = PIXELS if folded else f"({PIXELS} - mean) / std"
        found["normalisation"] = "in the graph" if folded else "before the graph"
    return {KEY + name: _text(value) for name, value in found.items() if value is not None}


def _classes(data: Any) -> Any:
    """The names of the classes, else their number; None for a task without classes."""
    names = getattr(data, "class_names", None)
    return list(names) if names else getattr(data, "num_classes", None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
