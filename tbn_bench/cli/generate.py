"""tbn-bench generate: text from a trained language model."""

import argparse
import shlex
import sys
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell

HELP = "write text with a trained language model"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", help="run id or its beginning, also as SWEEP/RUN (see: tbn-bench runs)"
    )
    flags.add_results(parser)
    flags.add_plugin(parser)
    parser.add_argument("--prompt", default="\n", help="the text to go on from (default: a line)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to write (default: 200)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="divides the logits before a token is drawn; 0 takes the likeliest (default: 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    parser.add_argument(
        "--kernels", action="store_true", help="packed layers multiply by the native kernels"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="instead: time a whole context token by token, also by torch.compile and ONNX Runtime "
        "with the same weights, in turn; writes a record",
    )
    parser.add_argument(
        "--threads", type=flags.threads, default=1, help="torch threads (default: 1)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.tokens < 1:
        raise ValueError(f"--tokens must be at least 1, got {args.tokens}")

    store = RunStore(args.results)
    record = store.find(args.run)
    if args.peers:
        return _timed(store, record, args.threads)

    from tbn_bench.experiment import generation

    found = generation.generate(
        record,
        args.prompt,
        args.tokens,
        args.temperature,
        args.seed,
        args.kernels,
        args.threads,
    )
    tell(found["text"])
    return found


def _timed(store: RunStore, record: RunRecord, threads: int) -> dict[str, Any]:
    from tbn_bench.latency import decoding

    command = shlex.join(["tbn-bench", *sys.argv[1:]])
    measured = decoding.timed(record, threads, command)
    decoding.show(measured)
    path = store.write_decoding(measured)
    return {"run_id": record.run_id, "record": str(path)}
