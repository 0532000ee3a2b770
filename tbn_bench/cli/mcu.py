"""tbn-bench mcu build | run | report: exported C libraries on simulated microcontrollers."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.install import shipped
from tbn_bench.records.text import tell

HELP = "build, run and measure exported C libraries on simulated microcontrollers"
EXTRA = "mcu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from tbn_bench.mcu import commands

    commands.add(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import commands, jobs

    measures_suite = args.action == "run" and args.suite and not args.what
    if measures_suite and not jobs.finished(args):
        _train_first_seed(args)
    return commands.run(args)


def _train_first_seed(args: argparse.Namespace) -> None:
    """Trains the runs of a suite's first seed, into --trained or `local` in --results.

    Raises ValueError where there is no sweep of that name.
    """
    from tbn_bench.sweep import local, spec
    from tbn_bench.sweep.execution import ExecutionOptions

    folder = args.trained or args.results / "local"
    file = shipped.find("sweeps", Path(args.suite))
    sweep = spec.load(file)
    first = min(config.seed for config in sweep.configs)
    tell(
        f"no trained runs of {args.suite} with checkpoints here: "
        f"training seed {first} of {file} first, into {folder}"
    )
    configs = [config for config in sweep.configs if config.seed == first]
    local.run(spec.SweepSpec(sweep.name, configs), folder, ExecutionOptions(jobs=2))
