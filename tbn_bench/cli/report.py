"""tbn-bench report: records to tables, figures and one page."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags

HELP = "make tables, figures and one page from the records"
EXTRA = "report"
_EVERY_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_results(parser)
    flags.add_plugin(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("reports"), help="folder to write (default: reports)"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="rebuild whenever a run begins or ends, and refresh the open page; Ctrl-C ends it",
    )
    parser.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help="with --watch: how often to look (default: 10)",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="instead: compare each published number with ours; writes "
        "OUT/paper.html, paper.md, paper.csv",
    )
    parser.add_argument(
        "--figure",
        metavar="NAME",
        help="write only this figure, 3.3 and 6.8 inches wide: OUT/NAME/*.svg and *.pdf",
    )
    parser.add_argument(
        "--panel",
        metavar="WORDS",
        help="with --figure: only panels with these words in their title",
    )
    parser.add_argument(
        "--methods",
        metavar="PATTERNS",
        help='with --figure: only these methods, by name or call, such as "tbn*,bwn"',
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.every is not None and not args.watch:
        raise ValueError("--every needs --watch")
    chosen = [name for name in ("watch", "paper", "figure") if getattr(args, name)]
    if len(chosen) > 1:
        raise ValueError(f"give one of --{' and --'.join(chosen)}: each writes other files")
    if not args.figure and (args.panel or args.methods):
        raise ValueError("--panel and --methods need --figure")
    if args.watch:
        from tbn_bench.reporting import watch

        every = _EVERY_S if args.every is None else args.every
        return watch.watch(args.results, args.out, every)
    if args.paper:
        from tbn_bench.reporting import paper

        return paper.of_folder(args.results, args.out)
    from tbn_bench.reporting import build

    if args.figure:
        return build.one_figure(args.results, args.out, args.figure, args.panel, args.methods)
    return build.report(args.results, args.out)
