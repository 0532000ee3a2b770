"""Flags that several commands have, and the values that they accept."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from tbn_bench import catalog, yaml_file
from tbn_bench.catalog import plugged
from tbn_bench.config import RunConfig, make
from tbn_bench.install import shipped
from tbn_bench.records.names import is_path
from tbn_bench.records.text import tell

MANY_THREADS = 1000  # more is a slip of the hand, and takes a machine down
CALLS = ("--data", "--model", "--binarizer", "--task", "--optimizer")


def add_config(parser: Any) -> None:
    """A flag for every field of RunConfig, and --config. parser: a cli.parser.Parser."""
    parser.calls = CALLS
    add_plugin(parser)
    parser.add_argument(
        "--config", type=Path, help="YAML preset, or the name of a recipe; flags override it"
    )
    for name, field in RunConfig.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(default)
        text = f"{field.description} (default: {default})"
        several = {"nargs": "+"} if name == "keep" else {}
        parser.add_argument(f"--{name}", default=None, help=text.replace("%", "%%"), **several)


def add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with methods, models, data sets, tasks or optimizers of your own "
        "(docs/guides/plugins.md); repeatable; TBN_BENCH_PLUGINS adds more",
    )


def load_plugins(args: argparse.Namespace) -> None:
    """Loads the plugins of a command that takes some, and those of the environment.

    Raises ValueError for one that cannot be loaded.
    """
    given = getattr(args, "plugin", None)
    if given is None:
        return
    if given or os.environ.get(plugged.VARIABLE):
        from tbn_bench.plugins import load

        load.load(given)


def config_of(args: argparse.Namespace) -> RunConfig:
    """The config that the flags of add_config make. Raises ValueError, one line per fault."""
    from tbn_bench.sweep import dotted

    preset: dict[str, Any] = {}
    if args.config:
        preset_file = shipped.find("recipes", args.config)
        written = read_preset(preset_file)
        load_named(written.pop("plugins", None), preset_file)
        preset = dotted.fold(written)
    given = {}
    for name, value in vars(args).items():
        if value is not None and (name in RunConfig.model_fields or "." in name):
            given[name] = ",".join(value) if isinstance(value, list) else value
    flags = dotted.from_flags(given)
    if is_agents_run():  # W&B's agent passes every parameter of the sweep to every run
        flags, left_out = dotted.fitting(flags, preset)
        warn("; ".join(_left_out(name) for name in left_out))
    config = make(preset | dotted.fold(flags, preset))
    _check_optimizer(config)
    return config


def _check_optimizer(config: RunConfig) -> None:
    """Raises ValueError for an unknown optimizer.

    RunConfig does not: records of a plugin's optimizer are read without the plugin.
    """
    name, _ = catalog.parse(config.optimizer)
    known = catalog.names("optimizers")
    if name not in known:
        hint = catalog.did_you_mean(name, known)
        raise ValueError(f"optimizer: unknown name {catalog.short(name)} in optimizers{hint}")


def read_preset(path: Path) -> dict[str, Any]:
    value = yaml_file.read(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of parameters, got {type(value).__name__}")
    return value


def load_named(named: Any, file: Path) -> None:
    """Loads what `plugins:` of a preset names. Raises ValueError unless it is a list of paths."""
    if named is None:
        return
    from tbn_bench.plugins import load

    load.load(load.named(named, file), file.parent)


def _left_out(name: str) -> str:
    field = name.partition(".")[0]
    return f"--{name} is no option of this {field} and left out"


def is_agents_run() -> bool:
    """Whether W&B's agent started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="folder of records (default: results)",
    )


def add_execution(parser: argparse.ArgumentParser, wandb: str) -> None:
    """How a run is carried out. wandb: the default of --wandb."""
    add_results(parser)
    parser.add_argument(
        "--wandb",
        choices=("offline", "online", "off"),
        default=wandb,
        help=f"copy of each run for Weights & Biases (default: {wandb})",
    )
    parser.add_argument(
        "--tracker",
        action="append",
        default=[],
        metavar="NAME",
        help="also copy each run to tensorboard or mlflow (wandb means --wandb offline); "
        "repeatable, or separated by commas",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where to train (default: cpu)",
    )
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="store channels innermost in memory, so that convolutions train faster",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network; takes some minutes at the start of each run",
    )


def threads(text: str) -> int:
    """A number of threads that a machine can have."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MANY_THREADS:
        raise argparse.ArgumentTypeError(
            f"expected an integer from 1 to {MANY_THREADS:,}, got {text[:50]!r}"
        )
    return value


def samples(text: str) -> int:
    """A number of samples."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of samples from 1 on, got {text!r}")
    return int(text)


def sweep_name(text: str) -> str:
    """A name that is a folder under results/runs, never a path."""
    if is_path(text):
        raise argparse.ArgumentTypeError(
            f"expected a name such as lr_study, got {text!r}; it must not be a path"
        )
    return text


def warn(line: str) -> None:
    """Prints a warning to stderr; an empty line prints nothing."""
    if line:
        tell(f"warning: {line}", file=sys.stderr)
