"""Flags of `tbn-bench runs`, and which file answers. Read for every --help, so it imports nothing itself."""

import argparse
import importlib
from pathlib import Path
from typing import Any

_BARE = "bare_"  # flags of a bare `tbn-bench runs`: argparse would let those of `runs list` overwrite them in silence


def add(parser: argparse.ArgumentParser) -> Any:
    """Everything after `tbn-bench runs`. Returns the subparsers, for commands that live elsewhere."""
    _list_flags(parser, _BARE)
    actions = parser.add_subparsers(
        dest="action", metavar="COMMAND", title="commands (without one: list)"
    )
    _list_flags(_action(actions, "list", "the runs, one per line"), "")
    p = _action(
        actions, "show", "all about one run: config, provenance, scores, cost, files, curves"
    )
    _run(p, "run")
    p = _action(actions, "compare", "what differs between two runs")
    _run(p, "run")
    _run(p, "other")
    p = _action(actions, "tail", "the end of a run's log and its last epochs")
    _run(p, "run")
    p.add_argument("--follow", action="store_true", help="go on until the run ends (or Ctrl-C)")
    p.add_argument(
        "--lines",
        type=int,
        default=10,
        help="lines of the log, and epochs, to begin with (default: 10)",
    )
    p = _action(
        actions,
        "verify",
        "check every record against its schema, its hash and its own numbers; status 1 if any is at fault",
    )
    p.add_argument(
        "--set-aside",
        action="store_true",
        help="move damaged runs to RESULTS/set_aside, so that their sweep runs them again",
    )
    p.add_argument(
        "--scores", nargs="*", metavar="RUN",
        help="instead: compute the test scores again from network.safetensors beside the records, "
        "by the native executor and by numpy alone; RUN is an id, SWEEP/id or SWEEP (default: all)",
    )  # fmt: skip
    p = _action(actions, "prune", "delete checkpoints of runs that are done")
    p.add_argument(
        "--keep",
        choices=("best", "none"),
        default="best",
        help="what stays (default: best, so that runs can be exported)",
    )
    p.add_argument(
        "--status",
        default="finished",
        help="of the runs to prune, several with commas (default: finished)",
    )
    p.add_argument("--dry-run", action="store_true", help="only say what would go")
    p = _action(actions, "export", "all runs as one CSV")
    _filter(p, "")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    p = _action(
        actions,
        "seeds",
        "per configuration: seeds that have finished, and those missing of its sweep's",
    )
    _filter(p, "")
    p.add_argument("--missing", action="store_true", help="only where one is missing")
    return actions


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The last line of stdout. Raises ValueError for flags of `list` before another command."""
    check(args)
    module = importlib.import_module(f"tbn_bench.runs.{args.action or 'list'}")
    return module.run(args)  # type: ignore[no-any-return]


def wants_scores(args: argparse.Namespace) -> bool:
    """Whether verify_scores.py answers, which needs torch. Raises ValueError beside --set-aside."""
    if getattr(args, "scores", None) is None:
        return False
    check(args)
    if args.set_aside:
        raise ValueError("--set-aside goes by the records alone; give it or --scores")
    return True


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for flags of `list` that stand before another command."""
    bare = {k.removeprefix(_BARE): v for k, v in vars(args).items() if k.startswith(_BARE)}
    if args.action is None:
        vars(args).update(bare)
    elif stray := [k for k, v in bare.items() if v]:
        raise ValueError(
            f"--{stray[0]} stands before {args.action}; flags stand behind it, see: tbn-bench runs {args.action} --help"
        )


def _action(actions: Any, name: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=help, description=help, allow_abbrev=False
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=argparse.SUPPRESS,
        help="folder of records (default: results)",
    )
    return parser


def _run(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(name, metavar="RUN", help="run id or its beginning, also as SWEEP/RUN")


def _filter(parser: argparse.ArgumentParser, prefix: str) -> None:
    parser.add_argument(
        "--filter", action="append", default=[], dest=f"{prefix}filter", metavar="EXPR",
        help="status=failed, binarizer~tbn (contains), 'test/top1>0.9', seed!=0; several must all hold",
    )  # fmt: skip


def _list_flags(parser: argparse.ArgumentParser, prefix: str) -> None:
    _filter(parser, prefix)
    parser.add_argument(
        "--sort", dest=f"{prefix}sort", metavar="COLUMN", help="least first; unknown values last"
    )
    parser.add_argument(
        "--reverse", dest=f"{prefix}reverse", action="store_true", help="greatest first"
    )
    parser.add_argument(
        "--columns",
        dest=f"{prefix}columns",
        metavar="A,B,C",
        help="what to show; a wrong name lists all",
    )
    parser.add_argument(
        "--limit", dest=f"{prefix}limit", type=int, metavar="N", help="show N runs at most"
    )
