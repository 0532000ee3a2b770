"""Which extra of tbn-bench has a package that is not installed, said in one line.

This is the table of pyproject.toml by the names that Python imports; a test compares them.
"""

from importlib.util import find_spec

CORE = ("torch", "numpy", "pydantic", "yaml", "filelock")
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
    None for a module that no extra has.
    """
    package, *_ = (error.name or "").split(".")
    if package in CORE:
        return f"{who} needs {package}: pip install tbn-bench"
    having = [extra for extra, packages in EXTRAS.items() if package in packages]
    if not having:
        return None
    extra = own if own in having else having[0]
    return f'{who} needs {package}: pip install "tbn-bench[{extra}]"'
