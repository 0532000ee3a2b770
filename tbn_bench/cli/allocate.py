"""tbn-bench allocate: the p of each layer from a budget of bits and a trained run."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.store import RunStore

HELP = "choose p for each layer from a budget of bits, by a trained run's losses"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="a finished run of bwn or full_precision: its id, or SWEEP/RUN"
    )
    parser.add_argument(
        "--bits",
        type=float,
        nargs="+",
        required=True,
        help="stored bits per weight of the tiled layers, scales included; several budgets",
    )
    flags.add_results(parser)
    flags.add_plugin(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("allocations"),
        help="folder for the measured losses and the presets (default: allocations)",
    )
    parser.add_argument(
        "--p",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16, 32],
        help="the p to try, where they divide a layer's rows (default: 1 2 4 8 16 32)",
    )
    parser.add_argument(
        "--batches",
        type=flags.samples,
        default=4,
        metavar="N",
        help="held-out batches on which losses are measured (default: 4)",
    )
    parser.add_argument(
        "--copies", default="aligned", help="layout of the copies, as tbn's (default: aligned)"
    )
    parser.add_argument("--alpha", choices=("tile", "layer"), default="tile", help="as tbn's")
    parser.add_argument(
        "--gradient",
        choices=("elementwise", "tile"),
        default="elementwise",
        help="of the tbn that is written (default: elementwise)",
    )
    parser.add_argument(
        "--again", action="store_true", help="measure although there is a file of losses"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.experiment import allocate, sensitivity

    options = sensitivity.Options(
        ps=tuple(args.p),
        batches=args.batches,
        copies=args.copies,
        alpha=args.alpha,
    )
    job = allocate.Job(tuple(args.bits), args.out, options, args.gradient, args.again)
    return allocate.run(RunStore(args.results), args.run, job)
