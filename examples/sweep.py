"""Compare methods over seeds, and read the records with pandas.

A finished run is skipped when the script runs again. After an interruption, the same command
resumes.

usage: python examples/sweep.py [--epochs N] [--results FOLDER]
"""

import argparse
from pathlib import Path

import yaml

from tbn_bench import cli
from tbn_bench.reporting.load import load

METHODS = ["full_precision", "bwn", "tbn(p=4, min_layer_size=1000)"]


def write_sweep(path: Path, epochs: int) -> None:
    """The file has W&B's format, so `wandb sweep` takes it too."""
    parameters = {
        "data": {"value": "digits"},
        "model": {"value": "mlp(hidden=[128])"},
        "binarizer": {"values": METHODS},
        "seed": {"values": [0, 1]},
        "epochs": {"value": epochs},
        "optimizer": {"value": "adam"},
        "lr": {"value": 0.005},
    }
    sweep = {
        "name": path.stem,
        "method": "grid",
        "metric": {"name": "val/top1", "goal": "maximize"},
        "command": ["tbn-bench", "train", "${args}"],
        "parameters": parameters,
    }
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--results", type=Path, default=Path("example_results"))
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)

    file = args.results / "digits_example.yaml"
    write_sweep(file, args.epochs)
    # The same as `tbn-bench sweep FILE --results FOLDER --jobs 1` on the command line.
    status = cli.main(["sweep", str(file), "--results", str(args.results), "--jobs", "1"])
    if status:
        raise SystemExit(status)

    runs = load(args.results).finished
    by_method = runs.groupby("binarizer", sort=False)
    print(by_method["test/top1"].agg(["mean", "count"]))
    print(by_method["bits_per_weight"].first())


if __name__ == "__main__":
    main()
