"""tbn-bench train | plan | sweep | latency | bench | export | generate | mcu | list | check |
certify | verify | robustness | allocate | report | runs | completion | schema.

Each command is a file of this folder with HELP, add_arguments(parser) and run(args), and EXTRA
where it needs an extra of the package. It imports torch and other large libraries inside run, so
that --help needs none of them.
"""

import sys

from tbn_bench.install import extras

FAILED = 1


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status, as program.main does.

    Where a package of the core is missing, it names that in one line on stderr and returns 1. The
    reader of packed files needs numpy alone, so such an installation may be on purpose.
    """
    try:
        from tbn_bench.cli import program
    except ModuleNotFoundError as error:
        line = extras.install_line(error, "tbn-bench")
        if line is None:
            raise

        print(line, file=sys.stderr)
        return FAILED
    return program.main(argv)
