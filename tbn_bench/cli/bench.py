"""tbn-bench bench: times of training steps."""

import argparse
from typing import Any

from tbn_bench.cli import flags

HELP = "time training steps of ResNet-18, or of its 3x3 convolutions, against full precision"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_results(parser)
    parser.add_argument(
        "--network",
        choices=("resnet18",),
        help="time whole steps of this network, on the CPU (default: single convolutions)",
    )
    parser.add_argument(
        "--p", type=int, nargs="+", default=[4, 8], help="compressions p (default: 4 8)"
    )
    parser.add_argument("--batch", type=int, help="batch size (default: 32; with --network 64)")
    parser.add_argument(
        "--precision",
        choices=("32", "bf16"),
        default="32",
        help="with --network: float32 or bfloat16 autocast (default: 32)",
    )
    parser.add_argument(
        "--learned-scales",
        action="store_true",
        help="with --network: train the tensors A, too",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--threads", type=flags.threads, default=1, help="torch threads (default: 1)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.latency import training, training_network

    if args.network is None:
        batch = args.batch or 32
        return training.training_steps(args.results, args.p, batch, args.threads, args.device)
    if args.device != "cpu":
        raise ValueError("--network is timed on the CPU; leave --device out")
    return training_network.network_steps(
        args.results,
        args.network,
        args.p,
        args.batch or 64,
        args.threads,
        half=args.precision == "bf16",
        learned_scales=args.learned_scales,
    )
