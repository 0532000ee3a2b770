"""tbn-bench list: the entries of every shelf, those of plugins included."""

import argparse
import ast
from typing import Any

from tbn_bench import catalog
from tbn_bench.catalog import plugged
from tbn_bench.cli import flags
from tbn_bench.records.text import tell

HELP = "list the methods, models, data sets, tasks and optimizers that can be named"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shelf",
        nargs="?",
        choices=plugged.SHELVES,
        metavar="SHELF",
        help="one shelf (default: all)",
    )
    flags.add_plugin(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints name and first line of each entry. Returns shelf -> names."""
    shelves = (args.shelf,) if args.shelf else plugged.SHELVES
    found = {shelf: catalog.names(shelf) for shelf in shelves}
    for shelf, names in found.items():
        tell(shelf)
        width = max(map(len, names))
        for name in names:
            tell(f"  {name:<{width}}  {_about(shelf, name)}".rstrip())
    return found


def _about(shelf: str, name: str) -> str:
    """The first line of an entry's docstring, and where it comes from if it is of a plugin."""
    origin = plugged.origin(shelf, name)
    if origin:
        entry = plugged.find(shelf, name)
        doc = entry.made.__doc__ if entry else None
        first = (doc or "").strip().partition("\n")[0]
        return f"{first} [{origin}]".strip()
    tree = ast.parse(catalog.source(shelf, name).read_bytes())
    return (ast.get_docstring(tree) or "").partition("\n")[0]
