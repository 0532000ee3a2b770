"""Made-up records, on which the contracts of tables and figures try them."""

import tempfile
from pathlib import Path

from tbn_bench.config import RunConfig, make
from tbn_bench.records.store import RunStore
from tbn_bench.reporting.load import Records, load

_EPOCHS = 2
_METHODS = ("full_precision", "bwn", "tbn(p=4)")
_SEEDS = (0, 1)


def some() -> Records:
    """Three methods with two seeds each on digits; one run has failed, and no number is real."""
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(folder)
        for method in _METHODS:
            for seed in _SEEDS:
                config = make({"binarizer": method, "seed": seed, "epochs": _EPOCHS})
                _write(store, config)
        config = make({"binarizer": "bwn", "seed": 2, "epochs": _EPOCHS})
        store.mark("made_up", config.run_id, "failed", "made up", config.model_dump(mode="json"), 0)
        return load(Path(folder))


def _write(store: RunStore, config: RunConfig) -> None:
    run = store.claim("made_up", config.run_id, config.model_dump(mode="json"), {"track": "W1A32"})
    if run is None:
        return
    top1 = 0.8 + 0.01 * config.seed
    for epoch in range(config.epochs):
        row = {"epoch": epoch, "train/loss": 1.0, "val/loss": 1.1, "val/top1": top1, "seconds": 2.0}
        run.log(row)
    run.finish(_summary(config, top1))


def _summary(config: RunConfig, top1: float) -> dict[str, object]:
    """Of a network of 1,000 weights, at four bits each."""
    return {
        "run_id": config.run_id,
        "test/loss": 1.2,
        "test/top1": top1,
        "val/top1_last": top1,
        "score": "top1",
        "track": "W1A32",
        "best_epoch": 0,
        "epochs": config.epochs,
        "seconds": 4.0 + config.seed,
        "weights": 1000,
        "stored_bits": 4000,
        "stored_bits_weights": 4000,
        "stored_bytes": 500,
        "bits_per_weight": 4.0,
        "macs": 1000,
        "distinct_macs": 1000,
        "plan": [],
    }
