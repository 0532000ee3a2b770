"""Suites of networks with the weights of their seed: timm's, on images of 224 x 224.

Nothing is trained: times do not depend on the values of weights. Layers under the paper's 64,000
weights are binary, not tiled.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tbn_bench.config import RunConfig, make
from tbn_bench.latency import networks

MODELS = {  # suite -> name in timm
    "resnet50": "resnet50",
    "mobilenet": "mobilenetv2_100",
    "convnext": "convnext_tiny",
}
PS = (4, 8)


def configs(name: str) -> list[RunConfig]:
    """One config per p."""
    found = []
    for p in PS:
        values = {
            "data": "smoke(of='imagenet')",
            "model": f"from_timm(name={MODELS[name]!r}, num_classes=1000)",
            "binarizer": f"tbn(p={p})",
        }
        found.append(make(values))
    return found


def suite(
    name: str, out: Path, device: str, threads: int, batches: Iterable[int], few: bool
) -> dict[str, Any]:
    """Times full precision and each p, one record per p and batch size."""
    batches = list(batches)
    cases: list[str] = []
    for config in configs(name):
        cases += networks.case(config, out, device, threads, batches, few)["cases"]
    return {"suite": name, "cases": cases}
