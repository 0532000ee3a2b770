"""Which extra of tbn-bench has a package that is not installed, said in one line.

This is the table of pyproject.toml by the names that Python imports; a test compares them.
"""

from importlib.util import find_spec

CORE = {  # dependencies of the package without an extra -> what pip calls them
    "torch": "torch",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "yaml": "PyYAML",
    "filelock": "filelock",
}
TRAIN = (
    "pytorch_lightning",
    "torchmetrics",
    "torchvision",
    "timm",
    "sklearn",
    "scipy",
    "h5py",
    "PIL",
    "safetensors",
    "wandb",
)
REPORT = ("pandas", "matplotlib", "altair", "vl_convert", "jinja2", "scipy")
SWEEP = (*TRAIN, "rich", "optuna")
EXTRAS = {  # extra -> its packages, those of extras that it includes too
    "train": TRAIN,
    "report": REPORT,
    "sweep": SWEEP,
    "peers": (*SWEEP, "onnxruntime", "onnx", "onnxscript", "torchao"),
    "mcu": (*SWEEP, "ziglang", "unicorn"),
    "ray": (*SWEEP, "ray"),
    "trackers": (*TRAIN, "tensorboard", "mlflow", "sqlalchemy", "alembic"),
}


def require(package: str) -> None:
    """Raises ModuleNotFoundError unless a package is installed; it is not imported."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def install_line(error: ModuleNotFoundError, who: str, own: str = "") -> str | None:
    """'tbn-bench report needs pandas: pip install "tbn-bench[report]"'.

    who: the command or function that cannot go on. own: its extra, named where it has the package.
    Where the extra of a command brings what is missing of the core as well, it is named: one
    installation repairs the command. Other commands name the missing packages of the core; torch
    is large, and reports do without it, so it is named only if it is asked for.
    None for a module that no extra has.
    """
    package, *_ = (error.name or "").split(".")
    if package in CORE and not _trains(own):
        names = " ".join(_missing(package))
        return f"{who} needs {package}: pip install {names}"

    having = [extra for extra, packages in EXTRAS.items() if package in packages]
    if package in CORE or own in having:
        extra = own
    elif having:
        extra = having[0]
    else:
        return None
    return f'{who} needs {package}: pip install "tbn-bench[{extra}]"'


def _trains(extra: str) -> bool:
    """Does an extra have what training needs, and so torch?"""
    packages = EXTRAS.get(extra, ())
    return set(TRAIN) <= set(packages)


def _missing(package: str) -> list[str]:
    """What pip calls this package of the core and the others that are missing, torch excepted."""
    found = [CORE[package]]
    for name, known in CORE.items():
        if name not in (package, "torch") and find_spec(name) is None:
            found.append(known)
    return found
