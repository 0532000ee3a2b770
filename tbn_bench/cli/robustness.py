"""tbn-bench robustness: accuracy under flipped bits, wrong scales and corrupted images."""

import argparse
import shlex
import sys
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.store import RunStore

HELP = "measure a stored network under flipped bits, wrong scales and corrupted images"
EXTRA = "train"
CODES = ("none", "hamming")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run id or its beginning, SWEEP/RUN, or SWEEP for all its finished runs",
    )
    flags.add_results(parser)
    flags.add_plugin(parser)
    parser.add_argument(
        "--draws",
        type=flags.samples,
        default=200,
        metavar="N",
        help="draws of each fault at each rate (default: 200)",
    )
    parser.add_argument(
        "--samples",
        type=flags.samples,
        metavar="N",
        help="test samples per draw (default: so many that all draws together see each once)",
    )
    parser.add_argument(
        "--images",
        type=flags.samples,
        metavar="N",
        help="corrupt only the first N test images (default: all)",
    )
    parser.add_argument(
        "--rates",
        default="1e-5,1e-4,1e-3,1e-2",
        help="probabilities of a flip, separated by commas (default: 1e-5,1e-4,1e-3,1e-2)",
    )
    parser.add_argument(
        "--faults",
        default="bits,weights,scales,corruptions",
        help="what is measured (default: bits,weights,scales,corruptions)",
    )
    parser.add_argument(
        "--code",
        choices=CODES,
        default="none",
        help="also measure the bits of weights with an error-correcting code (default: none)",
    )
    parser.add_argument(
        "--block",
        type=flags.samples,
        default=64,
        metavar="BITS",
        help="bits of weights in a block of the code, one of which it corrects (default: 64)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the draws and of noise (default: 0)"
    )
    parser.add_argument(
        "--threads", type=flags.threads, default=1, help="native threads (default: 1)"
    )
    parser.add_argument("--again", action="store_true", help="also measure runs that have a record")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.robustness import measure

    if args.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {args.seed}")
    options = measure.Options(
        draws=args.draws,
        samples=args.samples,
        images=args.images,
        rates=_rates(args.rates),
        kinds=tuple(args.faults.split(",")),
        block=args.block if args.code == "hamming" else None,
        seed=args.seed,
        threads=args.threads,
        again=args.again,
        command=shlex.join(["tbn-bench", *sys.argv[1:]]),
    )
    return measure.run(RunStore(args.results), args.runs, options)


def _rates(text: str) -> tuple[float, ...]:
    """Raises ValueError for what is no number."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--rates must be numbers separated by commas, got {text!r}") from error
