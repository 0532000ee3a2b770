"""tbn-bench verify: is what certificates state so?"""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import certify, flags

HELP = "recompute score, bits and bytes of certificates from their packed networks"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="certificates (.json or .zip), or folders of them",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="folder of records with the parts of a .json certificate "
        "(default: the nearest one above it)",
    )
    flags.add_plugin(parser)
    certify.add_numpy(parser)
    parser.add_argument(
        "--other-samples",
        type=flags.samples,
        default=0,
        metavar="N",
        help="accept N test samples that are not the certified ones; "
        "their classes are not compared (default: 0)",
    )
    parser.add_argument(
        "--need-data",
        action="store_true",
        help="count a certificate as failed if its data set is not on this machine",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.experiment import certified

    options = certified.Options(args.results, args.numpy, args.other_samples, args.need_data)
    return certified.run(args.files, options)
