"""tbn-bench schema: what a sweep file or a preset may hold, as JSON Schema for an editor."""

import argparse
import json
import sys
from typing import Any

from tbn_bench.records.text import tell

HELP = "print the JSON schema of sweep files or presets, for an editor"
KINDS = ("sweep", "preset")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help="sweep or preset")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the schema; on a terminal it is also printed, a key a line."""
    from tbn_bench.sweep import json_schema

    made = json_schema.sweep() if args.kind == "sweep" else json_schema.preset()
    if sys.stdout.isatty():
        tell(json.dumps(made, indent=2))
    return made
