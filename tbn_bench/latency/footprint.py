"""Bytes of a network's file, and of the memory that running it takes."""

import contextlib
import copy
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from tbn_bench import convert, native
from tbn_bench.config import make
from tbn_bench.latency import memory
from tbn_bench.latency.trained import Trained
from tbn_bench.records.text import tell

Sizes = dict[str, dict[str, Any]]  # implementation -> bytes by name


def footprints(loaded: list[Trained], device: str) -> dict[str, Sizes]:
    """Run id -> bytes of file and memory."""
    on_cpu = device == "cpu"
    one = loaded[0].data.first("test", 1)
    found = {}
    for trained in loaded:
        run_id = trained.run.run_id
        if on_cpu:
            found[run_id] = _footprint(trained)
        else:
            found[run_id] = _gpu_footprint(trained, one)
    return found


def _footprint(trained: Trained) -> Sizes:
    """Implementation -> bytes of the file, and by how much a fresh process grows to run it."""
    network = copy.deepcopy(trained.model)
    engines = {"dense": "dense"}
    if not trained.is_full_precision:
        if trained.plain is None:
            convert.pack_(network)
        engines = {}
    with contextlib.suppress(native.NativeUnavailable):
        engines[f"native {native.level()}"] = "native"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        size = convert.save(network, path, make(trained.run.config).non_defaults)
        found = {}
        for name, engine in engines.items():
            added = memory.in_fresh_process(path, engine) or {}
            grown = {f"memory_{key}": value for key, value in added.items()}
            found[name] = {"file_bytes": size, **grown}
    return found


def _gpu_footprint(trained: Trained, x: Tensor) -> Sizes:
    """Implementation -> bytes of GPU memory at rest and at the peak of a forward pass of x.

    At rest: weights and whatever is derived from them.
    """
    network = copy.deepcopy(trained.model)
    if trained.is_full_precision:
        return {"dense": memory.on_gpu(network, x)}

    convert.pack_(network)
    kernel = copy.deepcopy(network)
    convert.implement_(kernel)
    return {
        "tile reuse": memory.on_gpu(network, x),
        "triton": memory.on_gpu(kernel, x),
    }


def show_footprint(loaded: list[Trained], footprint: dict[str, Sizes]) -> None:
    """File and memory of each network, in bytes."""
    for trained in loaded:
        run = trained.run
        binarizer = run.config["binarizer"]
        own = footprint.get(run.run_id, {})
        for name, sizes in own.items():
            tell(f"{binarizer} [{name}]: {_said(sizes)}")


def _said(sizes: dict[str, Any]) -> str:
    if "gpu_peak_bytes" in sizes:
        resting = sizes["gpu_resting_bytes"]
        peak = sizes["gpu_peak_bytes"]
        return f"{resting:,} B on the GPU at rest, {peak:,} B at the peak"

    grown = _bytes_or_dash(sizes, "memory_grown")
    most = _bytes_or_dash(sizes, "memory_peak")
    return f"file {sizes['file_bytes']:,} B, a fresh process grows by {grown} B (peak {most} B)"


def _bytes_or_dash(sizes: dict[str, Any], key: str) -> str:
    if key not in sizes:
        return "—"
    return f"{sizes[key]:,}"
