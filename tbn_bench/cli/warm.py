"""python -m tbn_bench.cli.warm: forks runs of `tbn-bench train` for a sweep's launcher."""

import atexit
import os
import socket
import sys

from tbn_bench.cli import FAILED, main

_status = FAILED


def _end_at_once() -> None:
    """Without taking apart what is loaded, which would copy the pages of all of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)


if __name__ == "__main__":
    atexit.register(_end_at_once)  # before what runs import, so that it is called last


def run(control: int, nice: int) -> int:
    """The exit status of a run, in the process that is forked for it.

    control: number of the open socket to the launcher. nice: niceness of this process.
    """
    from tbn_bench.sweep import forking

    global _status
    arguments = forking.serve(socket.socket(fileno=control), nice)
    try:
        _status = main(arguments)
    except SystemExit as error:
        _status = error.code if isinstance(error.code, int) else FAILED
        raise
    return _status


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2])))
