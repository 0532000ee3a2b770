"""tbn-bench pack: a run's packed network as a smaller file."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.store import RunStore

HELP = "write a run's packed network as a smaller file, and measure what that changes"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", help="run id or its beginning, also as SWEEP/RUN (see: tbn-bench runs)"
    )
    flags.add_results(parser)
    flags.add_plugin(parser)
    parser.add_argument(
        "--fold-norm",
        action="store_true",
        help="store batch normalisation as two numbers per channel instead of four",
    )
    parser.add_argument(
        "--side",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="type of scales, biases and normalisation (default: float32)",
    )
    parser.add_argument(
        "--kept",
        choices=("float32", "int8"),
        default="float32",
        help="type of weights in full precision; int8 has a scale per output (default: float32)",
    )
    parser.add_argument(
        "--short-header", action="store_true", help="compress the description of the tensors"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="--fold-norm --side float16 --kept int8 --short-header",
    )
    parser.add_argument(
        "--each",
        action="store_true",
        help="instead of a file: measure each option alone and all together, and record it",
    )
    parser.add_argument("--out", type=Path, help="file to write (default: RUN.safetensors here)")
    parser.add_argument(
        "--numpy",
        type=flags.samples,
        default=20,
        metavar="N",
        help="also compute the first N test samples by numpy alone (default: 20)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.experiment import small_files
    from tbn_bench.format.small import Small

    options = Small(args.side, args.kept, args.short_header)
    folds = args.fold_norm
    if args.all:
        side = "float16" if args.side == "float32" else args.side
        options = Small(side, "int8", short_header=True)
        folds = True
    store = RunStore(args.results)
    is_plain = options == Small() and not folds
    if args.each:
        if args.out or not is_plain:
            raise ValueError(
                "--each measures every option and writes no file; leave the others out"
            )
        command = shlex.join(["tbn-bench", *sys.argv[1:]])
        return small_files.each(store, store.find(args.run), args.numpy, command)
    if is_plain:
        raise ValueError(
            "nothing to store smaller; give --fold-norm, --side, --kept or --short-header, or --all"
        )

    record = store.find(args.run)
    out = args.out or Path(f"{record.run_id}.safetensors")
    choice = small_files.Choice("small file", options, folds)
    return small_files.pack(record, choice, out, args.numpy)
