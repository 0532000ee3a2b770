"""Records without training: intact in every number that `tbn-bench runs verify` checks.

python tests/generated_runs.py FOLDER [N [EPOCHS]]      a store of N finished runs (10,000) of EPOCHS rows (3), seeds 0..4 of N / 5 configs
"""

import json
import sys
from pathlib import Path

from tbn_bench.config import RunConfig, make

SEEDS = 5
EPOCHS = 3


def provenance(config: RunConfig) -> dict:
    return {
        "commit": "0" * 40, "dirty": False, "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "hardware": {"cpu": "none", "cores": 2, "machine": "x86_64", "device": None, "threads": 1},
        "command": config.command, "started": "2026-11-21T12:00:00+00:00", "track": "W1A32",
    }  # fmt: skip


def rows(config: RunConfig) -> list[dict]:
    """Epochs that get better, but for the last."""
    top1 = [*(0.5 + 0.3 * k / config.epochs for k in range(config.epochs - 1)), 0.25]
    return [
        {"epoch": k, "step": 10 * k, "lr": config.lr, "train/loss": 1 / (k + 1), "val/loss": 1.5 / (k + 1), "val/top1": value, "seconds": 0.5}
        for k, value in enumerate(top1)
    ]  # fmt: skip


def summary(config: RunConfig) -> dict:
    """Of a network with one binarized weight of 64 by 10 at p = 4 and one kept weight of 10 by 10."""
    plan = [
        {"name": "a.weight", "shape": [64, 10], "numel": 640, "p": 4, "q": 160, "weight_bits": 160, "alpha_bits": 128, "binarized": True,
         "codebook_bits": 0, "stored_bits": 288},
        {"name": "b.weight", "shape": [10, 10], "numel": 100, "p": 1, "q": 100, "weight_bits": 3200, "alpha_bits": 0, "binarized": False,
         "codebook_bits": 0, "stored_bits": 3200},
    ]  # fmt: skip
    top1 = [row["val/top1"] for row in rows(config)]
    return {
        "run_id": config.run_id, "test/loss": 0.5, "test/top1": 0.9 - 0.01 * (config.seed % 10), "best_epoch": top1.index(max(top1)),
        "val/top1_last": top1[-1], "score": "top1", "track": "W1A32", "epochs": config.epochs, "test_samples": 397, "train_samples": 1200,
        "seconds": 1.5, "weights": 740, "stored_bits": 3808, "stored_bits_weights": 3488, "tile_bits": 160, "alpha_bits": 128,
        "codebook_bits": 0, "padding_bits": 0, "bias_bits": 320, "norm_bits": 0, "other_bits": 0, "stored_bytes": 476,
        "bits_per_weight": 3488 / 740, "bits_per_binarized_weight": 0.45, "macs": 740, "distinct_macs": 260, "plan": plan,
    }  # fmt: skip


def finished_run(store, held_out: float, top1: float, **values) -> str:
    """A finished run of one epoch of tbn(p=4) on digits; returns its id."""
    config = make({"data": "digits", "binarizer": "tbn(p=4)", "epochs": 1, **values})
    run = store.claim("s", config.run_id, config.model_dump(mode="json"), provenance(config))
    run.log({"epoch": 0, "val/top1": held_out})
    run.finish(summary(config) | {"best_epoch": 0, "test/top1": top1})
    return config.run_id


def write(root: Path, config: RunConfig, sweep: str) -> None:
    """As RunStore does, without its fsyncs."""
    path = root / "runs" / sweep / config.run_id
    path.mkdir(parents=True)
    header = {
        "schema_version": 1,
        "run_id": config.run_id,
        "sweep": sweep,
        "status": "finished",
        "error": None,
    }
    header |= {
        "config": config.model_dump(mode="json"),
        "provenance": provenance(config),
        "ended": "2026-11-21T12:00:02+00:00",
    }
    (path / "run.json").write_text(json.dumps(header, indent=1) + "\n")
    (path / "summary.json").write_text(
        json.dumps({"schema_version": 1, **summary(config)}, indent=1) + "\n"
    )
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(config)))


def store(root: Path, count: int, epochs: int = EPOCHS) -> None:
    """`count` finished runs in sweeps of 1,000."""
    for k in range(count):
        values = {
            "binarizer": f"tbn(p={2 ** (k // SEEDS % 4)})",
            "lr": 0.001 * (1 + k // SEEDS),
            "seed": k % SEEDS,
            "epochs": epochs,
        }
        write(root, make(values), f"sweep{k // 1000}")


if __name__ == "__main__":
    store(Path(sys.argv[1]), *map(int, sys.argv[2:] or ["10000"]))
