"""Guards the arrows of the design: which part may import which, and where heavy libraries may live."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

GROUND = {
    "atomic",
    "tiling",
    "derived",
    "format",
    "records",
    "config",
    "catalog",
    "install",
    "scores",
    "fingerprint",
    "yaml_file",
}
# What the command line and the report may see before a command is chosen: no torch behind any of it.
LIGHT = {
    "atomic",
    "catalog",
    "config",
    "install",
    "fingerprint",
    "records",
    "scores",
    "yaml_file",
}
SHELVES = {"binarizers", "models", "kernels", "native"}
NETWORK = GROUND | SHELVES | {"layers", "convert"}
LEARNING = NETWORK | {"optimizers", "tasks", "data"}

# part -> the parts it may import; its own files are always allowed. A new part must be placed here before it passes.
ALLOWED: dict[str, set[str]] = {
    "atomic": set(),
    "format": {"atomic"},
    "records": {
        "atomic",
        "catalog",
        "scores",
    },  # the words and ranges of what a record holds
    "catalog": set(),
    "install": {"catalog"},
    "scores": set(),
    "yaml_file": set(),
    "derived": set(),
    "tiling": {"format"},
    "fingerprint": {"catalog", "config"},
    "extend": LEARNING | {"reporting"},  # names what is below, and loads it when it is used
    "plugins": LEARNING | {"experiment", "reporting"},  # contracts of tables and figures
    "config": {"catalog"},  # the one spelling of an entry belongs to the identity of a run
    "binarizers": GROUND,
    "models": GROUND,
    "native": {"format"},
    "kernels": GROUND | {"native"},
    "layers": GROUND | SHELVES,
    "convert": GROUND | SHELVES | {"layers"},
    "compiler": NETWORK,
    "data": NETWORK,
    "optimizers": NETWORK,  # sorts parameters by what convert made of them
    "tasks": NETWORK | {"optimizers"},
    "tracking": LEARNING,
    "experiment": LEARNING | {"tracking", "compiler", "runs"},  # of `runs` the words alone
    "latency": LEARNING | {"experiment", "compiler"},
    "mcu": LEARNING | {"experiment", "compiler"},
    "robustness": LEARNING | {"experiment", "compiler"},
    "sweep": LEARNING | {"experiment", "plugins"},
    "runs": LIGHT,
    "reporting": LIGHT | {"runs"},  # what a run is, which seeds are missing: said once
}
ALLOWED["cli"] = set(ALLOWED)
FACE = "__init__"  # names what is below, and loads it when it is used: no arrow of its own

# modules of the standard library that Windows does not have
UNIX_ONLY = {
    "fcntl",
    "resource",
    "termios",
    "tty",
    "pty",
    "pwd",
    "grp",
    "posix",
    "syslog",
    "readline",
}

# library -> the only parts that may import it ("a/b" is one file of part a)
HOMES: dict[str, set[str]] = {
    "timm": {"models", "optimizers", "tasks/image_classification"},  # mixup and cutmix
    "pytorch_lightning": {"data/_given", "tasks", "experiment", "tracking/lightning_mirrors"},
    "lightning": {"tasks", "experiment"},
    "wandb": {"tracking"},
    "tensorboard": {"tracking/lightning_mirrors"},
    "mlflow": {"tracking/lightning_mirrors"},
    "optuna": {"sweep"},
    "ray": {"sweep"},
    "triton": {"kernels/triton"},
    "h5py": {"data"},
    "filelock": {"records/locks"},
    **{unix: set() for unix in UNIX_ONLY},
    **{
        plot: {"reporting"}
        for plot in ("pandas", "matplotlib", "seaborn", "altair", "vl_convert", "jinja2")
    },
}
NO_TORCH = {
    "__init__",
    "atomic",
    "format",
    "records",
    "catalog",
    "config",
    "install",
    "fingerprint",
    "scores",
    "yaml_file",
    "cli",
    "runs",
    "reporting",
}
TORCH = {"torch", "torchvision", "torchmetrics", "timm", "pytorch_lightning", "lightning", "triton"}


def modules() -> dict[str, str]:
    """Dotted name -> source of every file of the package; a folder's own file is called a.b.__init__."""
    files = sorted((ROOT / "tbn_bench").rglob("*.py"))
    return {
        ".".join(f.relative_to(ROOT).with_suffix("").parts): f.read_text(encoding="utf-8")
        for f in files
    }


def _is_run_later(node: ast.AST) -> bool:
    """A function, or what only a type checker reads."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports(module: str, source: str) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted target, at module level?) of every import, also relative, nested or by importlib."""
    tree = ast.parse(source)
    later = [node for node in ast.walk(tree) if _is_run_later(node)]
    nested = {id(inner) for node in later for inner in ast.walk(node)}
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


def _heavy_at_top(module: str, source: str) -> list[str]:
    """The face's imports outside functions and `if TYPE_CHECKING`, of anything but the standard library."""
    top = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
    foreign = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names]
    return [f"{module} must import {name} when it is used" for name in foreign]


def violations(module: str, source: str) -> list[str]:
    """Every import of `source`, seen as the module of that dotted name, which the tables above do not allow."""
    part, *inside = module.split(".")[1:]
    if part == FACE:
        return _heavy_at_top(module, source)
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
    """The table of allowed arrows is itself an order, and everything but cli is below cli.

    Nothing that trains or measures knows of the report. Plugins may have tables and figures.
    """
    order = list(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert order[-1] == "cli"
    knowing = [part for part, allowed in ALLOWED.items() if "reporting" in allowed]
    assert sorted(knowing) == ["cli", "extend", "plugins"]


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("tbn_bench.tiling", "from tbn_bench import convert", "tiling must not import convert"),
        (
            "tbn_bench.tiling",
            "import numpy, tbn_bench.experiment.train as t",
            "tiling must not import experiment",
        ),
        (
            "tbn_bench.records.store",
            "def f():\n    from tbn_bench.config import make",
            "store:2: records must not import config",
        ),
        (
            "tbn_bench.records.store",
            "class A:\n    async def f(self):\n        import torch.nn",
            "must not import torch",
        ),
        ("tbn_bench.format.bits", "from ..tiling import tile", "format must not import tiling"),
        ("tbn_bench.format.bits", "from .. import tiling", "format must not import tiling"),
        (
            "tbn_bench.format.bits",
            "import importlib\nimportlib.import_module('tbn_bench.convert.cost')",
            "format must not import convert",
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
            "tbn_bench.convert.binarize",
            "from tbn_bench.tasks import image_classification",
            "convert must not import tasks",
        ),
        (
            "tbn_bench.convert.binarize",
            "import pytorch_lightning as pl",
            "no home of pytorch_lightning",
        ),
        (
            "tbn_bench.layers.packed",
            "from tbn_bench.convert.cost import cost",
            "layers must not import convert",
        ),
        (
            "tbn_bench.experiment.train",
            "from tbn_bench.sweep import local",
            "experiment must not import sweep",
        ),
        (
            "tbn_bench.experiment.train",
            "def f():\n    import tbn_bench.cli",
            "experiment must not import cli",
        ),
        ("tbn_bench.experiment.train", "import pandas", "no home of pandas"),
        ("tbn_bench.experiment.train", "def f():\n    import wandb", "no home of wandb"),
        ("tbn_bench.tracking.mirror", "import pytorch_lightning", "no home of pytorch_lightning"),
        (
            "tbn_bench.tracking.mirror",
            "from tbn_bench.experiment import train",
            "tracking must not import experiment",
        ),
        (
            "tbn_bench.reporting.load",
            "from tbn_bench.format import bits",
            "reporting must not import format",
        ),
        (
            "tbn_bench.reporting.tables.x",
            "from ...convert.cost import cost",
            "reporting must not import convert",
        ),
        (
            "tbn_bench.reporting.style",
            "def f():\n    import torch",
            "reporting must not import torch",
        ),
        ("tbn_bench.latency", "import matplotlib.pyplot as plt", "no home of matplotlib"),
        ("tbn_bench.latency", "def f():\n    import wandb", "no home of wandb"),
        ("tbn_bench.kernels.tiled_linear.torch", "import triton", "no home of triton"),
        ("tbn_bench.cli", "from tbn_bench.experiment import train", "inside the command"),
        ("tbn_bench.cli", "import torch", "must not import torch"),
        ("tbn_bench.records.store", "def f():\n    import fcntl", "records is no home of fcntl"),
        ("tbn_bench.records.store", "import filelock", "records is no home of filelock"),
        ("tbn_bench.helpers", "", "has no floor yet"),
        ("tbn_bench.__init__", "from tbn_bench import catalog", "when it is used"),
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
            "def f():\n    from tbn_bench.experiment import train\nfrom tbn_bench import __version__, config",
        ),
        (
            "tbn_bench.sweep.local",
            "from .spec import load\nfrom ..experiment.train import run\nimport ray",
        ),
        (
            "tbn_bench.kernels.tiled_linear.triton",
            "import triton.language as tl\nfrom tbn_bench.format.bits import pack",
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
        "tbn_bench.cli.parser",
        "tbn_bench.binarizers.tbn",
        "tbn_bench.reporting.tables.comparison",
    } <= set(found)
    assert any(
        target == "tbn_bench.tiling"
        for _, target, _ in imports("tbn_bench.layers.reuse", found["tbn_bench.layers.reuse"])
    )


def test_the_light_ground_loads_no_torch():
    """What reports and --help are built on stays light through every import behind it, not only in its own lines."""
    code = "import sys, tbn_bench.format.bits, tbn_bench.config, tbn_bench.records.store; print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    heavy = sorted(TORCH | {"wandb", "pandas", "matplotlib", "scipy"})
    out = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"
