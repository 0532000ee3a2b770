"""One command of tbn-bench: its arguments, its errors in one line, its exit status."""

import os
import sys

from tbn_bench.cli import FAILED
from tbn_bench.cli.flags import load_plugins
from tbn_bench.cli.parser import make_parser
from tbn_bench.install import extras
from tbn_bench.records.files import RecordError, emit
from tbn_bench.records.run import RunBusy
from tbn_bench.records.text import hush, tell

BUSY = 75
INTERRUPTED = 130
CLOSED = 141


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Its last line on stdout is a JSON object, unless stdout is a terminal.

    Returns the exit status. 0: done. 1: refused or failed, with one line on stderr. 75: the run is
    another process's. 130: interrupted. 141: the reader of stdout has closed it, as `| head` does;
    nothing is said then. Wrong flags raise SystemExit(2).
    """
    try:
        return _main(argv)
    except BrokenPipeError:
        hush()
        return CLOSED


def _main(argv: list[str] | None) -> int:
    """As main. Raises BrokenPipeError."""
    args = make_parser().parse_args(argv)
    program = f"tbn-bench {args.command}"
    for name, value in getattr(args, "environment", {}).items():
        os.environ.setdefault(name, value)  # before a plugin loads torch, which reads it
    try:
        load_plugins(args)
        result = args.call(args)
    except MemoryError:
        said = "not enough memory; use a smaller network or batch"
        tell(f"{program}: error: {said}", file=sys.stderr)
        return FAILED
    except ModuleNotFoundError as error:
        line = extras.install_line(error, program, args.own_extra)
        if line is None:
            raise

        tell(line, file=sys.stderr)
        return FAILED
    except RunBusy as error:
        tell(f"{program}: error: {error}", file=sys.stderr)
        return BUSY
    except BrokenPipeError:
        raise
    except (ValueError, RecordError, RuntimeError, OSError) as error:
        tell(f"{program}: error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        said = "interrupted; the same command goes on where it stopped"
        tell(f"{program}: {said}", file=sys.stderr)
        return INTERRUPTED

    if result is None:  # a script for a shell, which no line of JSON may follow
        return 0

    emit(result)
    return FAILED if result.get("failed") else 0
