"""python -m tbn_bench.cli: the same as tbn-bench."""

import sys

from tbn_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
