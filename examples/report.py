"""Make the page, tables and figures from records, and one table of your own.

usage: python examples/report.py [--results FOLDER] [--out FOLDER]
"""

import argparse
from pathlib import Path

from tbn_bench.reporting.build import report
from tbn_bench.reporting.load import Records, load


def best_per_model(records: Records) -> str:
    """The run with the highest top-1 of each data set and model, as text."""
    runs = records.finished.dropna(subset=["test/top1"])
    best = runs.sort_values("test/top1", ascending=False).drop_duplicates(["data", "model"])
    columns = ["data", "model", "binarizer", "test/top1", "stored_bytes", "run_id"]
    return str(best[columns].to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("example_report"))
    args = parser.parse_args()

    # The same as `tbn-bench report --results FOLDER --out FOLDER` on the command line.
    made = report(args.results, args.out)
    print(f"open {made['page']} in a browser; it works offline")

    # Every frame of `Records` is tidy, so any other question is a few lines of pandas.
    print(best_per_model(load(args.results)))


if __name__ == "__main__":
    main()
