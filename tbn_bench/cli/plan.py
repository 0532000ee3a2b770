"""tbn-bench plan: how a binarizer treats each weight. Nothing is trained."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbn_bench.cli import flags
from tbn_bench.records.text import tell

if TYPE_CHECKING:
    from tbn_bench.experiment.build import Experiment
    from tbn_bench.reporting.published import Line
    from tbn_bench.reporting.reproduction.sizes import Size

HELP = "show how a binarizer treats each weight, without training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser)
    parser.add_argument(
        "--published",
        type=Path,
        metavar="RESULTS",
        help="instead: plan each published network that the suite has, for report --paper; writes "
        "RESULTS/published/sizes.json",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the plan. Returns the cost of the network."""
    if args.published:
        return _published(args.published)
    from tbn_bench.experiment import build

    experiment = build.sketch(flags.config_of(args))
    tell(experiment.plan)
    return experiment.cost.summary()


def _published(results: Path) -> dict[str, Any]:
    """Writes the planned size of every network of ours that results/published names."""
    from tbn_bench.reporting import commands, published
    from tbn_bench.reporting.reproduction import sizes

    problems: list[str] = []
    ledger = published.read(published.home(results), problems).to_dict("records")
    if problems:
        raise ValueError("\n".join(problems))
    settings = commands.settings_of(Path())
    found = []
    for line in sizes.named(ledger):
        given, file = sizes.flags(line, settings)
        found.append(_size(line, given, file))
    path = sizes.write(found, results)
    tell(f"{len(found)} networks planned: {path}")
    return {"sizes": str(path), "networks": len(found)}


def _size(line: "Line", given: dict[str, str], file: str) -> "Size":
    """The planned size of a line's network. given: the flags of its plan. file: their setting."""
    from tbn_bench.config import make
    from tbn_bench.experiment import build
    from tbn_bench.reporting.reproduction.sizes import Size

    experiment = build.sketch(make(given))
    dense = build.sketch(make(given | {"binarizer": "full_precision"}))
    return Size(
        dataset=line["dataset"],
        model=line["model"],
        spec=line["spec"],
        data=experiment.config.data,
        network=experiment.config.model,
        binarizer=experiment.config.binarizer,
        setting=file,
        weights=experiment.cost.weights,
        parameters=sum(parameter.numel() for parameter in dense.model.parameters()),
        norm_weights=_norm_weights(dense),
        **_weights_by_kind(dense),
        sign_bits=experiment.cost.tile_bits,
        stored_bits=experiment.cost.stored_bits_weights,
    )


def _norm_weights(experiment: "Experiment") -> int:
    """The weights of normalisations, without their biases."""
    found = 0
    for module in experiment.model.modules():
        weight = getattr(module, "weight", None)
        if "Norm" in type(module).__name__ and weight is not None:
            found += weight.numel()
    return found


def _weights_by_kind(experiment: "Experiment") -> dict[str, int]:
    """The weights of linear layers, convolutions, and convolutions with a kernel of 1."""
    found = {"linear_weights": 0, "conv_weights": 0, "conv1x1_weights": 0}
    for row in experiment.plan.rows:
        kernel = row.shape[2:]
        kind = "linear_weights"
        if kernel:
            kind = "conv1x1_weights" if math.prod(kernel) == 1 else "conv_weights"
        found[kind] += row.numel
    return found
