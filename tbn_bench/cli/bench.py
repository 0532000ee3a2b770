"""tbn-bench bench: times of training steps."""

import argparse
from typing import Any

from tbn_bench.cli import flags

HELP = "time training steps of ResNet-18's 3x3 convolutions against full precision"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_results(parser)
    parser.add_argument(
        "--p", type=int, nargs="+", default=[4, 8], help="compressions p (default: 4 8)"
    )
    parser.add_argument("--batch", type=int, default=32, help="batch size (default: 32)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--threads", type=flags.threads, default=1, help="torch threads (default: 1)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.latency import training

    return training.training_steps(args.results, args.p, args.batch, args.threads, args.device)
