"""tbn-bench latency: times of layers and of trained networks, each after a check of its outputs."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.text import tell

HELP = "time networks, each gated by a parity check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser)
    flags.add_results(parser)
    parser.add_argument(
        "--suite",
        help="linear, conv (single layers), or the name of a sweep: its trained runs",
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 64], help="batch sizes (default: 1 64)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the timings' records (default: that of --results)"
    )
    parser.add_argument(
        "--few-peers",
        action="store_true",
        help="dense, compiled and ONNX Runtime only (the others take minutes to build)",
    )
    parser.add_argument(
        "--skip-done",
        action="store_true",
        help="do not time again a case whose record has the same runs",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=flags.threads, default=1, help="torch threads (default: 1)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times a suite, or without one the network of the flags."""
    from tbn_bench.latency import networks, ops

    out = args.out or args.results
    if args.suite in ops.CASES:
        return ops.suite(args.suite, out, args.threads, args.batch, args.device)
    if args.suite:
        return networks.suite(
            args.suite,
            _trained_runs(args),
            args.device,
            args.threads,
            args.batch,
            out,
            args.skip_done,
            args.few_peers,
        )
    config = flags.config_of(args)
    return networks.case(config, args.results, args.device, args.threads, args.batch)


def _trained_runs(args: argparse.Namespace) -> Path:
    """The folder of the suite's runs with checkpoints: --results, or `local` in it.

    If neither has them, they are trained into `local`.
    """
    from tbn_bench.latency import trained
    from tbn_bench.sweep import local, spec
    from tbn_bench.sweep.execution import ExecutionOptions

    file = Path("sweeps") / f"{args.suite}.yaml"
    own: Path = args.results / "local"
    for folder in (args.results, own):
        try:
            trained.usable_runs(args.suite, folder)
        except ValueError:
            if folder == own and not file.exists():
                raise
        else:
            return folder
    tell(
        f"no trained runs of {args.suite} with checkpoints here: training {file} first, into {own}"
    )
    local.run(spec.load(file), own, ExecutionOptions(device=args.device))
    return own
