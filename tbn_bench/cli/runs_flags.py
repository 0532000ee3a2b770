"""The flags of tbn-bench runs and of the commands below it."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags

# Flags of a bare `tbn-bench runs`. argparse would let those of `runs list` overwrite them silently.
BARE = "bare_"
LIST_FLAGS = ("filter", "sort", "reverse", "columns", "limit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_results(parser)
    _add_list_flags(parser, BARE)
    actions = parser.add_subparsers(
        dest="action", metavar="COMMAND", title="commands (without one: list)"
    )
    _add_list(actions)
    _add_show(actions)
    _add_compare(actions)
    _add_predictions(actions)
    _add_tail(actions)
    _add_verify(actions)
    _add_repeat(actions)
    _add_prune(actions)
    _add_delete(actions)
    _add_export(actions)
    _add_seeds(actions)
    _add_import(actions)
    _add_sync(actions)


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


def _add_run(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(name, metavar="RUN", help="run id or its beginning, also as SWEEP/RUN")


def _add_filter(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        dest=f"{prefix}filter",
        metavar="EXPR",
        help="only runs with status=failed, binarizer~tbn (contains), 'test/top1>0.9', ...; "
        "several filters must all hold",
    )


def _add_list_flags(parser: argparse.ArgumentParser, prefix: str) -> None:
    _add_filter(parser, prefix)
    parser.add_argument(
        "--sort",
        dest=f"{prefix}sort",
        metavar="COLUMN",
        help="sort by this column, smallest first; unknown values last",
    )
    parser.add_argument(
        "--reverse", dest=f"{prefix}reverse", action="store_true", help="largest first"
    )
    parser.add_argument(
        "--columns",
        dest=f"{prefix}columns",
        metavar="A,B,C",
        help="columns to show; a wrong name prints all names",
    )
    parser.add_argument(
        "--limit", dest=f"{prefix}limit", type=int, metavar="N", help="show N runs at most"
    )


def _add_list(actions: Any) -> None:
    _add_list_flags(_action(actions, "list", "list the runs, one per line"), "")


def _add_show(actions: Any) -> None:
    about = "show one run: config, provenance, scores, cost, files, curves"
    _add_run(_action(actions, "show", about), "run")


def _add_predictions(actions: Any) -> None:
    about = "show the confusion matrix of a run, or the test samples on which two runs differ"
    parser = _action(actions, "predictions", about)
    _add_run(parser, "run")
    parser.add_argument("other", metavar="RUN", nargs="?", help="a second run of the same data")


def _add_compare(actions: Any) -> None:
    parser = _action(actions, "compare", "show what differs between two runs")
    _add_run(parser, "run")
    _add_run(parser, "other")


def _add_tail(actions: Any) -> None:
    parser = _action(actions, "tail", "show the end of a run's log and its last epochs")
    _add_run(parser, "run")
    parser.add_argument(
        "--follow", action="store_true", help="keep printing until the run ends or Ctrl-C"
    )
    parser.add_argument(
        "--lines",
        type=int,
        default=10,
        help="number of log lines and of epochs to show first (default: 10)",
    )


def _add_verify(actions: Any) -> None:
    parser = _action(
        actions,
        "verify",
        "check every record against its schema, its hash and its own numbers; "
        "exit status 1 if one is wrong",
    )
    parser.add_argument(
        "--set-aside",
        action="store_true",
        help="move damaged runs to RESULTS/set_aside, so that their sweep runs them again",
    )
    parser.add_argument(
        "--scores",
        nargs="*",
        metavar="RUN",
        help="instead: compute the test scores again from network.safetensors beside the records, "
        "by the native executor and by numpy alone; RUN is an id, SWEEP/id or SWEEP (default: all)",
    )


def _add_repeat(actions: Any) -> None:
    parser = _action(
        actions,
        "repeat",
        "train the first epochs of a run again and compare every number with its record",
    )
    _add_run(parser, "run")
    parser.add_argument(
        "--epochs", type=int, default=1, metavar="N", help="how many epochs (default: 1)"
    )


def _add_prune(actions: Any) -> None:
    parser = _action(actions, "prune", "delete checkpoints of runs that are done")
    parser.add_argument(
        "--keep",
        choices=("best", "none"),
        default="best",
        help="checkpoints to keep (default: best, so that runs can be exported)",
    )
    parser.add_argument(
        "--status",
        default="finished",
        help="prune runs with this status; separate several by commas (default: finished)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be deleted")


def _add_delete(actions: Any) -> None:
    about = "move runs to RESULTS/set_aside, so that they are in no list and can run again"
    parser = _action(actions, "delete", about)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run id or its beginning, also as SWEEP/RUN"
    )


def _add_export(actions: Any) -> None:
    parser = _action(actions, "export", "write all runs into one CSV file")
    _add_filter(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def _add_seeds(actions: Any) -> None:
    about = "list the finished and the missing seeds of each configuration"
    parser = _action(actions, "seeds", about)
    _add_filter(parser)
    parser.add_argument(
        "--missing", action="store_true", help="only configurations with a missing seed"
    )


def _add_import(actions: Any) -> None:
    parser = _action(
        actions,
        "import",
        "copy W&B's offline runs into the records, marked as imported; existing records stay",
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="*",
        metavar="PATH",
        help="offline-run-* folders, or folders of them",
    )
    parser.add_argument(
        "--project", metavar="ENTITY/NAME", help="a project on W&B's server instead (needs a key)"
    )


def _add_sync(actions: Any) -> None:
    about = "upload finished offline runs to W&B (needs a key)"
    parser = _action(actions, "sync", about)
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="run ids, or their beginnings (default: all finished runs)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only list what would be uploaded; works offline"
    )
