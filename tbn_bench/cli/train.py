"""tbn-bench train: one network is trained, tested and recorded."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from tbn_bench.cli import flags
from tbn_bench.records.text import tell
from tbn_bench.scores import shown

if TYPE_CHECKING:
    from tbn_bench.experiment.build import Experiment

HELP = "train one network and record it"
EXTRA = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from tbn_bench.sweep.execution import WAITING

    parser.set_defaults(environment={WAITING: "passive"})
    flags.add_config(parser)
    # the server of W&B follows the runs that its agent starts
    flags.add_execution(parser, "online" if flags.is_agents_run() else "offline")
    parser.add_argument(
        "--sweep",
        type=flags.sweep_name,
        default="single",
        help="group of runs to which the record belongs (default: single)",
    )
    parser.add_argument(
        "--threads", type=flags.threads, help="torch threads (default: torch's own)"
    )
    parser.add_argument("--trial", type=int, help=argparse.SUPPRESS)  # its number in a sweep
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        help="processes that train together, one device each (default: 1)",
    )
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument(
        "--resume",
        action="store_true",
        help="resume from the last checkpoint (default if there is one)",
    )
    resume.add_argument(
        "--restart",
        action="store_true",
        help="train from the first step: ignore checkpoints, and move the record of a finished run "
        "to RESULTS/set_aside",
    )
    parser.add_argument("--quiet", action="store_true", help="print no plan and no progress bar")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the summary of the record, without its plan."""
    from tbn_bench.experiment import train
    from tbn_bench.experiment.options import RunOptions
    from tbn_bench.experiment.precision import slow_bfloat16

    config = flags.config_of(args)
    options = RunOptions(
        results=args.results,
        sweep=args.sweep,
        wandb=args.wandb,
        device=args.device,
        threads=args.threads,
        progress=sys.stdout.isatty() and not args.quiet,
        channels_last=args.channels_last,
        compile=args.compile,
        devices=args.devices,
        trackers=tuple(args.tracker),
        trial=args.trial,
    )
    flags.warn(slow_bfloat16(config.precision, args.device))
    says_plan = not args.quiet and not options.rank
    announce = _tell_plan if says_plan else None
    record = train.run(config, options, resume=not args.restart, announce=announce)
    if options.rank:
        raise SystemExit(0)  # the first process reports for all
    summary = {key: value for key, value in (record.summary or {}).items() if key != "plan"}
    bits = summary["bits_per_weight"]
    tell(f"run {record.run_id}: test {shown(summary)}, {bits:.3f} bits per weight")
    return {"status": record.status, "sweep": record.sweep, **summary}


def _tell_plan(experiment: "Experiment") -> None:
    tell(experiment.plan)
