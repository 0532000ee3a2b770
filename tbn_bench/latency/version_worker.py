"""Runs the packed executor of one version of tbn_bench, one request at a time.

A script for versions.Worker, in a process of its own. PYTHONPATH names the version that is
imported, which may be older than this file. So this file imports no module of the package by name:
it looks for each function where the versions have had it. Requests and answers are lines of JSON.
"""

import functools
import importlib
import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor, nn

# name -> the modules that have had it, newest first
PLACES = {
    "Executor": ("tbn_bench.compiler.executor", "tbn_bench.executor"),
    "NativeUnavailable": ("tbn_bench.native", "tbn_bench.kernels._native"),
    "binarize_": ("tbn_bench.convert",),
    "binarize_inputs_": ("tbn_bench.convert",),
    "build": ("tbn_bench.catalog",),
    "load_": ("tbn_bench.convert", "tbn_bench.packed"),
    "pack_": ("tbn_bench.convert", "tbn_bench.packed"),
    "save": ("tbn_bench.convert", "tbn_bench.packed"),
}
NEEDED = ("Executor", "NativeUnavailable", "binarize_", "build", "load_", "pack_", "save")
FULL_PRECISION = "full_precision"


def find(name: str) -> Any:
    """A function or class of the version. Raises LookupError where the version has none."""
    for place in PLACES[name]:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError:
            continue
        if hasattr(module, name):
            return getattr(module, name)
    raise LookupError(f"it has no {name} in {' or '.join(PLACES[name])}")


def sampling() -> types.ModuleType:
    """Clocks and samples of the suites. That file needs no other file of the package."""
    path = Path(__file__).with_name("sampling.py")
    spec = importlib.util.spec_from_file_location("tbn_sampling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def plain_network(network: dict[str, Any]) -> nn.Module:
    """The full-precision network of a request, in eval mode, with the weights of its seed."""
    torch.manual_seed(network["seed"])
    if "layer" in network:
        layer: nn.Module = torch.load(network["layer"], weights_only=False)
        return layer.eval()
    given = {**network["given"], "in_shape": tuple(network["in_shape"])}
    model: nn.Module = find("build")("models", network["model"], **given)
    return model.eval()


def save(network: dict[str, Any], path: str) -> dict[str, Any]:
    """Binarizes and packs the network, and writes its packed file."""
    model = plain_network(network)
    if network["binarizer"] != FULL_PRECISION:
        find("binarize_")(model, network["binarizer"], network["keep"])
        model.eval()
        find("pack_")(model)
    find("save")(model, Path(path))
    return {}


def load(network: dict[str, Any], path: str) -> nn.Module:
    """The network of a packed file."""
    model = plain_network(network)
    if network["binarizes_inputs"]:
        find("binarize_inputs_")(model, network["binarizer"], network["keep"])
    loaded: nn.Module = find("load_")(model, Path(path))
    return loaded


class Worker:
    """The executor that is timed, its input, and the clock."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        clocks = sampling()
        self.threads = threads
        self._wait: Callable[[], float] = clocks.run_queue_wait
        _, self._sample = clocks.clock_for("cpu", threads)
        self._network: nn.Module | None = None
        self._call: Callable[[Tensor], Tensor] | None = None
        self._x = torch.zeros(0)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises whatever the version raises."""
        do = request.pop("do")
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "hello": self.hello,
            "save": save,
            "load": self.load,
            "open": self.open,
            "time": self.time,
        }
        return actions[do](**request)

    def hello(self) -> dict[str, Any]:
        """The folder that tbn_bench is imported from. Raises LookupError for an unknown layout."""
        for name in NEEDED:
            find(name)
        package = importlib.import_module("tbn_bench")
        return {"folder": str(Path(str(package.__file__)).parent.parent)}

    def load(self, network: dict[str, Any], path: str, x: str) -> dict[str, Any]:
        """Reads a packed file, and an input (B, ...) from a .npy file."""
        self._network = load(network, path)
        self._x = torch.from_numpy(np.load(x))
        return {}

    def open(self, precision: str, out: str) -> dict[str, Any]:
        """Makes an executor of the loaded network, and writes its output to a .npy file."""
        executor = find("Executor")
        refusals = (find("NativeUnavailable"), ValueError)
        try:
            made = executor(self._network, self._x, threads=self.threads, precision=precision)
        except refusals as error:
            return {"unavailable": " ".join(str(error).split())}
        np.save(out, made(self._x).numpy())
        self._call = made
        return {"level": made.level, "torch_nodes": made.torch_nodes}

    def time(self, calls: int) -> dict[str, Any]:
        """Milliseconds per call. Several calls follow one that fills the caches and is not timed.

        waited_s: seconds that the threads waited for a processor meanwhile.
        """
        if self._call is None:
            raise RuntimeError("no executor is open")
        call = functools.partial(self._call, self._x)
        with torch.no_grad():
            if calls > 1:
                call()
            before_s = self._wait()
            time_ms = self._sample(call, calls, None)
        return {"time_ms": time_ms, "waited_s": self._wait() - before_s}


def own_stdout() -> TextIO:
    """The pipe to the parent. Whatever else is printed here goes to stderr."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    """Answers requests until stdin is closed."""
    pipe = own_stdout()
    worker = Worker(int(sys.argv[1]))
    for line in sys.stdin:
        try:
            found = worker.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - the parent reports it, with the version's name
            said = " ".join(str(error).split())
            found = {"error": f"{type(error).__name__}: {said}"}
        print(json.dumps(found), file=pipe, flush=True)


if __name__ == "__main__":
    main()
