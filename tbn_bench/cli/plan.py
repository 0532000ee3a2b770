"""tbn-bench plan: how a binarizer treats each weight. Nothing is trained or written."""

import argparse
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.store import tell

HELP = "show how a binarizer treats each weight, without training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the plan. Returns the cost of the network."""
    from tbn_bench.experiment import build

    experiment = build.sketch(flags.config_of(args))
    tell(experiment.plan)
    return experiment.cost.summary()
