"""tbn-bench certify: a certificate of each run."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.store import RunStore

HELP = "write a certificate of each run: what it claims, and hashes of the files that show it"
EXTRA = "train"


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
        "--out", type=Path, help="folder to write (default: certificates in that of the records)"
    )
    parser.add_argument(
        "--bundle",
        action="store_true",
        help="write a zip file with the record and the packed network in it, to be sent",
    )
    add_numpy(parser)
    parser.add_argument(
        "--again", action="store_true", help="also certify runs that have a certificate"
    )


def add_numpy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--numpy",
        type=flags.samples,
        metavar="N",
        help="compute only the first N test samples by numpy, which is slow (default: all)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.experiment import certify

    options = certify.Options(args.out, args.numpy, args.bundle, args.again)
    return certify.run(RunStore(args.results), args.runs, options)
