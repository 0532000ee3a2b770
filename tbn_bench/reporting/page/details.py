"""All that a run's own view shows, packed in blocks of runs; a block is unpacked when one of its runs is opened."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tbn_bench.records.store import RunRecord, RunStore
from tbn_bench.reporting.page.packing import compact, packed
from tbn_bench.runs import show, text
from tbn_bench.runs.index import COSTS, FIELDS
from tbn_bench.runs.lock import held
from tbn_bench.scores import FIRST

BLOCK = 64  # runs
EMBEDDED = 400_000  # bytes of blocks that the page itself may hold; more lie beside it, as scripts, which work from disk
POINTS = 100  # of a curve
_PLAN = (
    "name",
    "shape",
    "numel",
    "p",
    "q",
    "code",
    "weight_bits",
    "alpha_bits",
    "activation_bits",
    "stored_bits",
    "reason",
)
_CURVES = ("train/loss", "val/loss", "tile/flip_rate", "tile/near_zero", "lr")


def detail(record: RunRecord, curves: dict[str, np.ndarray]) -> dict[str, Any]:
    """curves: columns of the run in Records.curves."""
    summary = record.summary or {}
    judged = f"val/{summary.get('score', FIRST)}"
    dead = record.status == "running" and not held(record.path)
    found = {
        "id": record.run_id, "sweep": record.sweep, "status": "dead" if dead else record.status, "error": record.error,
        "command": show.command(record), "config": _config(record.config),
        "scores": [[k, text.score(k.partition("/")[2], v)] for k, v in summary.items() if k.startswith("test/")]
        + [[k, text.word(summary[k])] for k in ("best_epoch", "test_samples", "train_samples", "seconds") if k in summary],
        "cost": [[k, summary[k]] for k in COSTS if k in summary],
        "environment": show.flat(record.provenance), "plan": _plan(summary.get("plan")), "judged": judged,
    }  # fmt: skip
    return found | {
        "curves": {
            judged if name == "val/score" else name: values
            for name, values in _thinned(curves).items()
        }
    }


def _config(config: dict[str, Any]) -> list[list[Any]]:
    """[field, value, whether it is the default], what differs first."""
    shown = [
        [k, text.word(v), k in FIELDS and text.word(v) == text.word(FIELDS[k])]
        for k, v in config.items()
    ]
    return sorted(shown, key=lambda pair: pair[2])


def _plan(layers: Any) -> dict[str, Any] | None:
    if not isinstance(layers, list) or not layers:
        return None
    keys = [k for k in _PLAN if any(layer.get(k) not in (None, "") for layer in layers)]
    cells = [
        ["×".join(map(str, v)) if isinstance(v := layer.get(k), list) else v for k in keys]
        for layer in layers
    ]
    return {"keys": keys, "rows": cells}


def _thinned(curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(n,) floats, of at most POINTS epochs and the last; columns without a number are left out."""
    n = len(curves["epoch"])
    chosen = sorted({*range(0, n, -(-n // POINTS) or 1), n - 1}) if n else []
    found = {
        name: values[chosen]
        for name, values in curves.items()
        if name != "epoch" and np.isfinite(values).any()
    }
    return {"epoch": curves["epoch"][chosen] + 1, **found} if found else {}


def _blocks(store: RunStore, curves: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """By run id, so that the first ids of the blocks are index enough; runs of one id (in several sweeps) stay together."""
    block: list[dict[str, Any]] = []
    places = curves.groupby(["sweep", "run_id"], observed=True).indices if len(curves) else {}
    columns = {
        name: pd.to_numeric(curves[name], errors="coerce").to_numpy(float)
        for name in ("epoch", "val/score", *_CURVES)
    }
    for record in sorted(store.runs([]), key=lambda r: (r.run_id, r.sweep)):
        if len(block) >= BLOCK and block[-1]["id"] != record.run_id:
            yield block
            block = []
        own = places.get((record.sweep, record.run_id), [])
        block.append(detail(record, {name: values[own] for name, values in columns.items()}))
    if block:
        yield block


def book(results: Path, curves: pd.DataFrame) -> dict[str, Any]:
    """firsts: the first run id of each block. blocks: the packed blocks. files: their names beside the page, empty where it holds them."""
    firsts, blocks = [], []
    for block in _blocks(RunStore(results), curves):
        firsts.append(block[0]["id"])
        blocks.append(packed(compact(block)))
    inside = sum(map(len, blocks)) <= EMBEDDED
    names = (
        []
        if inside
        else [
            f"data/runs-{k:03d}-{hashlib.sha256(b.encode()).hexdigest()[:8]}.js"
            for k, b in enumerate(blocks)
        ]
    )
    return {"firsts": firsts, "blocks": blocks, "files": names}


def write_beside(found: dict[str, Any], out: Path) -> None:
    """The files of a book, before the page that asks for them."""
    if found["files"]:
        (out / "data").mkdir(parents=True, exist_ok=True)
    for k, (name, block) in enumerate(zip(found["files"], found["blocks"], strict=False)):
        (out / name).write_text(f'runBlock({k},"{block}");\n', encoding="ascii")


def remove_stale(found: dict[str, Any], out: Path) -> None:
    for path in (out / "data").glob("runs-*.js"):
        if f"data/{path.name}" not in found["files"]:
            path.unlink(missing_ok=True)
