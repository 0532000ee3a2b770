"""What every data set gives."""

from typing import Any

import torch

from tbn_bench import catalog
from tbn_bench.plugins.contracts.rule import Rule, require


def built(call: str) -> Any:
    """The data set, read."""
    data = catalog.build("data", call, batch_size=16, seed=0)
    data.setup()
    return data


def samples(call: str) -> None:
    """Each split has samples of in_shape, float32 and finite after prepare."""
    data = built(call)
    for split in ("train", "test"):
        require(data.size(split) > 0, f"expected samples in {split}, got none")
        x = data.first(split, 2)
        got = tuple(x.shape[1:])
        expected = tuple(data.in_shape)
        require(got == expected, f"{split}: in_shape says {expected}, prepare gives {got}")
        is_float = x.dtype == torch.float32
        require(is_float, f"{split}: prepare must give float32, got {x.dtype}; add .float()")
        require(bool(x.isfinite().all()), f"{split}: expected finite samples, got NaN or infinity")


def labels(call: str) -> None:
    """Labels of classes are whole numbers from 0 to num_classes - 1."""
    data = built(call)
    if not hasattr(data, "num_classes"):
        return
    for split, (_, y) in data.splits.items():
        is_whole = not y.is_floating_point()
        require(is_whole, f"{split}: labels must be whole numbers, got {y.dtype}; use torch.long")
        least = int(y.min())
        most = int(y.max())
        require(
            least >= 0 and most < data.num_classes,
            f"{split}: labels go from {least} to {most}, num_classes is {data.num_classes}",
        )


def repeats(call: str) -> None:
    """Two readings give the same samples in the same order; another seed another order."""
    first = built(call)
    second = built(call)
    same = torch.equal(first.first("train", 4), second.first("train", 4))
    require(same, "two readings differ; draw from a torch.Generator with a fixed seed")
    x, y = next(iter(first.train_dataloader()))[:2]
    again_x, again_y = next(iter(second.train_dataloader()))[:2]
    same = torch.equal(x, again_x) and torch.equal(y, again_y)
    require(same, "the first training batch differs between two readings with one seed")


RULES = (
    Rule("samples have the shape that it says", samples),
    Rule("labels are those of its classes", labels),
    Rule("it repeats", repeats),
)
