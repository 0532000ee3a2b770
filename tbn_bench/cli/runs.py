"""tbn-bench runs and the commands below it, such as `runs list`; each only calls what does it."""

import argparse
from collections.abc import Callable
from typing import Any

from tbn_bench.cli import runs_flags
from tbn_bench.cli.runs_flags import BARE, LIST_FLAGS
from tbn_bench.records.store import RunStore

HELP = "list, show, compare, follow, check, prune and export recorded runs"
EXTRA = "report"

add_arguments = runs_flags.add_arguments


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises ValueError for flags of `list` before another command."""
    if args.action != "import" and not args.results.is_dir():
        raise ValueError(
            f"no folder {args.results}: give the folder of the records with --results, "
            "or make one by tbn-bench train or sweep"
        )
    stray = [name for name in LIST_FLAGS if getattr(args, BARE + name)]
    if args.action is None:
        for name in LIST_FLAGS:
            setattr(args, name, getattr(args, BARE + name))
    elif stray:
        raise ValueError(
            f"--{stray[0]} stands before {args.action}; flags stand behind it, "
            f"see: tbn-bench runs {args.action} --help"
        )
    return ACTIONS[args.action or "list"](args)


def _list(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import list as listing

    return listing.run(
        RunStore(args.results),
        filters=args.filter,
        sort=args.sort,
        reverse=args.reverse,
        columns=args.columns,
        limit=args.limit,
    )


def _show(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import show

    return show.run(RunStore(args.results), args.run)


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import compare

    return compare.run(RunStore(args.results), args.run, args.other)


def _predictions(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import predictions

    return predictions.run(RunStore(args.results), args.run, args.other)


def _tail(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import tail

    return tail.run(RunStore(args.results), args.run, args.lines, args.follow)


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    if args.scores is None:
        from tbn_bench.runs import verify

        return verify.run(RunStore(args.results), args.set_aside)
    if args.set_aside:
        raise ValueError("--set-aside goes by the records alone; give it or --scores")
    from tbn_bench.experiment import verify as scores

    return scores.run(RunStore(args.results), args.scores)


def _repeat(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.experiment import repeat

    return repeat.run(RunStore(args.results), args.run, args.epochs)


def _prune(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import prune

    return prune.run(RunStore(args.results), args.keep, args.status, args.dry_run)


def _delete(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import delete

    return delete.run(RunStore(args.results), args.runs)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import export

    return export.run(RunStore(args.results), args.filter, args.out)


def _seeds(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import seeds

    return seeds.run(RunStore(args.results), args.filter, args.missing)


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.tracking import transfer

    return transfer.import_runs(args.paths, args.results, args.project)


def _sync(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.tracking import transfer

    return transfer.sync(args.runs, args.results, args.dry_run)


ACTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "list": _list,
    "show": _show,
    "compare": _compare,
    "predictions": _predictions,
    "tail": _tail,
    "verify": _verify,
    "repeat": _repeat,
    "prune": _prune,
    "delete": _delete,
    "export": _export,
    "seeds": _seeds,
    "import": _import,
    "sync": _sync,
}
