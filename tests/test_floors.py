"""Guards the arrows of the design: which part may import which, and where heavy libraries may live."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

GROUND = {
    "derived",
    "tiling",
    "bits",
    "copies",
    "storage",
    "config",
    "records",
    "scores",
    "catalog",
    "names",
    "yaml_file",
}
SHELVES = {"binarizers", "models", "kernels"}
LIGHT = {
    "config",
    "records",
    "scores",
    "catalog",
    "names",
    "yaml_file",
}  # what cli and reporting may see before a command has been chosen
UP_TO_SHELVES = GROUND | SHELVES
UP_TO_VERBS = UP_TO_SHELVES | {
    "features",
    "inputs",
    "reuse",
    "convert",
    "description",
    "description_v2",
    "artifact",
    "packed",
    "patterns",
    "tracing",
    "regions",
    "functions",
    "lowering",
    "executor",
    "cost",
}
UP_TO_LEARNING = UP_TO_VERBS | {"data", "optimizers", "tasks", "assembly"}

# part -> the parts it may import; its own files are always allowed. A new part must be placed here before it passes.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "bits": set(),
    "copies": set(),
    "storage": {
        "bits",
        "copies",
    },  # inside floor 0: what training, the packed file and its numpy reader share
    "tiling": {"copies"},
    "derived": set(),
    "catalog": set(),
    "names": set(),
    "yaml_file": set(),
    "records": set(),
    "scores": set(),
    "config": {
        "catalog"
    },  # inside floor 0: the one spelling of an entry belongs to the identity of a run
    "binarizers": GROUND,
    "models": GROUND,
    "kernels": GROUND,
    # Inside the box "convert, packed, cost" of the design's drawing; reuse holds the layers that convert swaps in.
    "features": UP_TO_SHELVES,
    "inputs": UP_TO_SHELVES,
    "reuse": UP_TO_SHELVES | {"features"},
    "description": {"copies", "storage"},
    "description_v2": {"description", "storage"},
    "artifact": {"description", "description_v2"},
    "packed": UP_TO_SHELVES | {"features", "artifact", "description"},
    "numpy_ops": set(),
    "numpy_forward": {
        "numpy_ops",
        "artifact",
    },  # the second opinion: no other code of ours multiplies
    "patterns": set(),
    "tracing": UP_TO_SHELVES | {"inputs", "packed", "patterns"},
    "regions": UP_TO_SHELVES,
    "functions": UP_TO_SHELVES | {"regions"},
    "lowering": UP_TO_SHELVES | {"packed", "patterns", "regions", "functions"},
    "executor": UP_TO_SHELVES | {"tracing", "lowering", "regions"},
    "convert": UP_TO_SHELVES | {"inputs", "reuse"},
    "cost": UP_TO_SHELVES | {"convert"},
    "data": UP_TO_VERBS,
    "optimizers": UP_TO_SHELVES | {"convert"},  # sorts parameters by what convert made of them
    "tasks": UP_TO_VERBS | {"optimizers"},
    "mcu": UP_TO_LEARNING,  # exports a trained run, and runs its test set
    "assembly": UP_TO_VERBS | {"optimizers"},  # reaches data through the catalogue
    "export": UP_TO_LEARNING,
    "tracking": UP_TO_LEARNING,
    "train": UP_TO_LEARNING | {"tracking"},
    "latency": UP_TO_LEARNING | {"export"},  # loads a packed file as its user would
    "sweep": UP_TO_LEARNING | {"train"},
    "reporting": LIGHT
    | {"runs"},  # what a run is, which seeds are missing: said once for command line and page
    "runs": LIGHT,
    "verify_scores": UP_TO_LEARNING
    | {"numpy_forward", "numpy_ops", "runs"},  # of `runs` the words alone
}
ALLOWED["cli"] = set(ALLOWED)

# third-party library -> the only parts that may import it ("a/b" is one file of part a)
HOMES: dict[str, set[str]] = {
    "timm": {"models", "optimizers", "tasks/image_classification"},  # mixup and cutmix
    "pytorch_lightning": {"data", "tasks", "train", "tracking/lightning_mirrors"},
    "lightning": {"data", "tasks", "train"},
    "wandb": {"tracking"},
    "tensorboard": {"tracking/lightning_mirrors"},
    "mlflow": {"tracking/lightning_mirrors"},
    "optuna": {"sweep"},
    "ray": {"sweep"},
    "triton": {"kernels/triton"},
    "h5py": {"data"},
    **{
        plot: {"reporting"}
        for plot in ("pandas", "matplotlib", "seaborn", "altair", "vl_convert", "jinja2")
    },
}
NO_TORCH = {
    "__init__",
    "artifact",
    "bits",
    "description",
    "description_v2",
    "copies",
    "storage",
    "catalog",
    "config",
    "records",
    "scores",
    "cli",
    "numpy_ops",
    "reporting",
    "runs",
}
TORCH = {"torch", "torchvision", "torchmetrics", "timm", "pytorch_lightning", "lightning", "triton"}


def modules() -> dict[str, str]:
    """Dotted name -> source of every file of the package; a folder's own file is called a.b.__init__."""
    files = sorted((ROOT / "tbn_bench").rglob("*.py"))
    return {
        ".".join(f.relative_to(ROOT).with_suffix("").parts): f.read_text(encoding="utf-8")
        for f in files
    }


def imports(module: str, source: str) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted target, at module level?) of every import, also relative, nested or by importlib."""
    tree = ast.parse(source)
    nested = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for n in ast.walk(f)
    }
    found = []
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{stem}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            targets = [
                a.value
                for a in node.args[:1]
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
        found += [(node.lineno, target, id(node) not in nested) for target in targets]
    return found


def violations(module: str, source: str) -> list[str]:
    """Every import of `source`, seen as the module of that dotted name, which the tables above do not allow."""
    part, *inside = module.split(".")[1:]
    if part not in ALLOWED:
        return [f"{module}: the part {part!r} has no floor yet; give it one in ALLOWED"]
    faults = []
    for line, target, at_top in imports(module, source):
        library, _, rest = target.partition(".")
        if library == "tbn_bench":
            other = rest.partition(".")[0]
            own = other == part or other in ("", "__version__")
            if not own and other not in ALLOWED[part]:
                faults.append(f"{module}:{line}: {part} must not import {other}")
            elif part == "cli" and at_top and not own and other not in LIGHT:
                faults.append(
                    f"{module}:{line}: cli must import {other} inside the command that needs it"
                )
        elif library in HOMES and not HOMES[library] & {part, "/".join([part, *inside[-1:]])}:
            faults.append(f"{module}:{line}: {part} is no home of {library}")
        elif library in TORCH and part in NO_TORCH:
            faults.append(f"{module}:{line}: {part} must not import {library}")
    return faults


@pytest.mark.parametrize("module", modules())
def test_arrows_point_down(module):
    """No file imports a part above or beside it, nor a library outside its home."""
    assert violations(module, modules()[module]) == []


def test_the_floors_have_no_cycle():
    """The table of allowed arrows is itself an order, and everything but cli is below cli."""
    order = list(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert order[-1] == "cli"
    assert not any("reporting" in allowed for part, allowed in ALLOWED.items() if part != "cli")


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("tbn_bench.tiling", "from tbn_bench import convert", "tiling must not import convert"),
        ("tbn_bench.tiling", "import numpy, tbn_bench.train as t", "tiling must not import train"),
        (
            "tbn_bench.records",
            "def f():\n    from tbn_bench.catalog import names",
            "records:2: records must not",
        ),
        (
            "tbn_bench.records",
            "class A:\n    async def f(self):\n        import torch.nn",
            "must not import torch",
        ),
        ("tbn_bench.bits", "from .tiling import tile", "bits must not import tiling"),
        ("tbn_bench.bits", "from . import tiling", "bits must not import tiling"),
        (
            "tbn_bench.bits",
            "import importlib\nimportlib.import_module('tbn_bench.cost')",
            "bits must not import cost",
        ),
        (
            "tbn_bench.binarizers.tbn",
            "from ..models import mlp",
            "binarizers must not import models",
        ),
        (
            "tbn_bench.binarizers.__init__",
            "from ..kernels import x",
            "binarizers must not import kernels",
        ),
        (
            "tbn_bench.models.vit",
            "if True:\n    import tbn_bench.binarizers._base",
            "models must not import binarizers",
        ),
        (
            "tbn_bench.convert",
            "from tbn_bench.tasks import image_classification",
            "convert must not import tasks",
        ),
        ("tbn_bench.convert", "import pytorch_lightning as pl", "no home of pytorch_lightning"),
        ("tbn_bench.packed", "from tbn_bench.cost import cost", "packed must not import cost"),
        ("tbn_bench.train", "from tbn_bench.sweep import local", "train must not import sweep"),
        ("tbn_bench.train", "def f():\n    import tbn_bench.cli", "train must not import cli"),
        ("tbn_bench.train", "import pandas", "no home of pandas"),
        ("tbn_bench.train", "def f():\n    import wandb", "no home of wandb"),
        ("tbn_bench.tracking.mirror", "import pytorch_lightning", "no home of pytorch_lightning"),
        (
            "tbn_bench.tracking.mirror",
            "from tbn_bench import train",
            "tracking must not import train",
        ),
        (
            "tbn_bench.reporting.load",
            "from tbn_bench import bits",
            "reporting must not import bits",
        ),
        (
            "tbn_bench.reporting.tables.x",
            "from ...cost import cost",
            "reporting must not import cost",
        ),
        (
            "tbn_bench.reporting.style",
            "def f():\n    import torch",
            "reporting must not import torch",
        ),
        ("tbn_bench.latency", "import matplotlib.pyplot as plt", "no home of matplotlib"),
        ("tbn_bench.latency", "def f():\n    import wandb", "no home of wandb"),
        ("tbn_bench.kernels.tiled_linear.torch", "import triton", "no home of triton"),
        ("tbn_bench.cli", "from tbn_bench import train", "inside the command"),
        ("tbn_bench.cli", "import torch", "must not import torch"),
        ("tbn_bench.helpers", "", "has no floor yet"),
    ],
)
def test_the_checker_catches(module, source, said):
    """A violating source gives exactly one fault, which names it: a checker that sees nothing would pass everything."""
    (fault,) = violations(module, source)
    assert said in fault


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "tbn_bench.cli",
            "def f():\n    from tbn_bench import train\nfrom tbn_bench import __version__, config",
        ),
        ("tbn_bench.sweep.local", "from .spec import load\nfrom ..train import run\nimport ray"),
        (
            "tbn_bench.kernels.tiled_linear.triton",
            "import triton.language as tl\nfrom tbn_bench.bits import pack",
        ),
        (
            "tbn_bench.reporting.tables.__init__",
            "from .. import style\nfrom ..load import Records\nimport pandas",
        ),
        ("tbn_bench.models.x", "import timm\nimport tilings.convert"),
    ],
)
def test_the_checker_allows(module, source):
    """Own files, lower floors and a library in its home are no fault."""
    assert violations(module, source) == []


def test_the_tree_is_seen():
    """The walk finds the package: files of every depth, and arrows in them."""
    found = modules()
    assert {
        "tbn_bench.cli",
        "tbn_bench.binarizers.tbn",
        "tbn_bench.reporting.tables.comparison",
    } <= set(found)
    assert any(
        target == "tbn_bench.tiling"
        for _, target, _ in imports("tbn_bench.reuse", found["tbn_bench.reuse"])
    )


def test_the_light_ground_loads_no_torch():
    """What reports and --help are built on stays light through every import behind it, not only in its own lines."""
    code = "import sys, tbn_bench.bits, tbn_bench.config, tbn_bench.records; print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    heavy = sorted(TORCH | {"wandb", "pandas", "matplotlib", "scipy"})
    out = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"
