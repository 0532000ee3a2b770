"""tbn-bench export: a trained run as a file, as a C library, or as a module for browsers."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.store import RunStore

HELP = "write a trained run as a file, checked against the trained model"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from tbn_bench.mcu import commands

    parser.add_argument(
        "run", help="run id or its beginning, also as SWEEP/RUN (see: tbn-bench runs)"
    )
    flags.add_results(parser)
    flags.add_plugin(parser)
    parser.add_argument(
        "--format",
        default="safetensors",
        help="safetensors, pt2, onnx, c: a library for microcontrollers, or wasm: a module for "
        "browsers (default: safetensors)",
    )
    parser.add_argument(
        "--out", type=Path, help="file (format c, wasm: folder) to write (default: RUN.FORMAT here)"
    )
    parser.add_argument(
        "--fold-normalisation",
        action="store_true",
        help="pt2, onnx: the graph takes pixels from 0 to 1 and normalises them itself",
    )
    parser.add_argument(
        "--weights",
        default="bits",
        help="onnx: how linear layers store their signs: bits (unpacked by the graph), 4bit, or "
        "2bit (ONNX Runtime rounds their inputs to 8 bits) (default: bits)",
    )
    commands.add_export_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.format in ("c", "wasm"):
        from tbn_bench.mcu import commands

        if args.fold_normalisation:
            raise ValueError(
                f"--fold-normalisation is for pt2 and onnx, got {args.format}; leave it out"
            )
        if args.weights != "bits":
            raise ValueError(
                f"--weights {args.weights} is for --format onnx, got {args.format}; leave it out"
            )
        write = commands.export if args.format == "c" else commands.export_web
        return write(args)
    from tbn_bench.experiment import export

    record = RunStore(args.results).find(args.run)
    return export.export(record, args.format, args.out, args.fold_normalisation, args.weights)
