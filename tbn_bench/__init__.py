"""tbn_bench: train, compare, time and report binary and sub-bit neural networks.

>>> import torch
>>> import tbn_bench as tb
>>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
>>> plan = tb.binarize_(model, "tbn(p=4, min_layer_size=0)")
>>> [(row.name, row.p) for row in plan.rows]
[('0.weight', 4), ('2.weight', 4)]
>>> rows = tb.pack_(model)
>>> model(torch.zeros(1, 64)).shape
torch.Size([1, 10])

torch and other heavy modules are imported only when a name that needs them is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbn_bench import catalog
    from tbn_bench.cli.python import compare, report
    from tbn_bench.compiler.executor import Executor
    from tbn_bench.config import RunConfig as Config
    from tbn_bench.convert import advance_, begin_step_, binarize_, load, pack_, save
    from tbn_bench.experiment.advance_callback import Advance
    from tbn_bench.experiment.after_training import binarize_trained
    from tbn_bench.experiment.given import holding, train
    from tbn_bench.latency.given import latency
    from tbn_bench.sweep.python import sweep

__version__ = "0.2.0"
__all__ = [
    "Advance",
    "Config",
    "Executor",
    "advance_",
    "begin_step_",
    "binarize_",
    "binarize_trained",
    "catalog",
    "compare",
    "holding",
    "latency",
    "load",
    "pack_",
    "report",
    "save",
    "sweep",
    "train",
]

_FACE = {
    "Advance": ("tbn_bench.experiment.advance_callback", "Advance"),
    "advance_": ("tbn_bench.convert", "advance_"),
    "begin_step_": ("tbn_bench.convert", "begin_step_"),
    "Config": ("tbn_bench.config", "RunConfig"),
    "Executor": ("tbn_bench.compiler.executor", "Executor"),
    "binarize_": ("tbn_bench.convert", "binarize_"),
    "binarize_trained": ("tbn_bench.experiment.after_training", "binarize_trained"),
    "compare": ("tbn_bench.cli.python", "compare"),
    "holding": ("tbn_bench.experiment.given", "holding"),
    "load": ("tbn_bench.convert", "load"),
    "pack_": ("tbn_bench.convert", "pack_"),
    "report": ("tbn_bench.cli.python", "report"),
    "save": ("tbn_bench.convert", "save"),
    "train": ("tbn_bench.experiment.given", "train"),
}
_PACKAGES = ("catalog", "latency", "sweep")  # the last two can be called
_MOVED = {
    "artifact": "tbn_bench.format.packed_file",
    "bits": "tbn_bench.format.bits",
    "copies": "tbn_bench.format.layouts",
    "cost": "tbn_bench.convert.cost",
    "executor": "tbn_bench.compiler.executor",
    "packed": "tbn_bench.convert",
    "storage": "tbn_bench.format.form",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use. For a module of version 0.1, says where it is now."""
    if name in _PACKAGES:
        return import_module(f"tbn_bench.{name}")
    if name in _FACE:
        return _loaded(name)
    if name in _MOVED:
        raise AttributeError(f"tbn_bench.{name} is now {_MOVED[name]}")
    raise AttributeError(f"module 'tbn_bench' has no attribute {name!r}")


def _loaded(name: str) -> Any:
    """A name of the face. Raises ModuleNotFoundError with the extra to install."""
    module, attribute = _FACE[name]
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        extras = import_module("tbn_bench.install.extras")
        line = extras.install_line(error, f"tbn_bench.{name}")
        if line is None:
            raise
        raise ModuleNotFoundError(line, name=error.name) from error


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
