"""tbn-bench check: does a file of your own keep the contracts of its shelves?"""

import argparse
from pathlib import Path
from typing import Any

HELP = "check that the entries of a plugin file keep the rules for their kind"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="plugin files")
    parser.add_argument(
        "--call",
        dest="calls",
        action="append",
        default=[],
        metavar="CALL",
        help="check an entry with these options, e.g. 'my_method(p=4)'; repeatable",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.plugins import check

    return check.run(args.files, args.calls)
