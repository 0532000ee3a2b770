"""All that a run's own view shows, packed in blocks of runs; a block is unpacked when one of its runs is opened."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tbn_bench.records import RunRecord, RunStore
from tbn_bench.reporting.page.packing import compact, packed
from tbn_bench.runs import show, text
from tbn_bench.runs.index import COSTS, FIELDS
from tbn_bench.runs.lock import held
from tbn_bench.scores import FIRST

BLOCK = 64  # runs
EMBEDDED = 400_000  # bytes of blocks that the page itself may hold; more lie beside it, as scripts, which work from disk
POINTS = 100  # of a curve
_PLAN = ("name", "shape", "numel", "p", "q", "code", "weight_bits", "alpha_bits", "activation_bits", "stored_bits", "reason")
_CURVES = ("train/loss", "val/loss", "tile/flip_rate", "tile/near_zero", "lr")


def detail(record: RunRecord, rows: pd.DataFrame) -> dict[str, Any]:
    """rows: of the run in Records.curves."""
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
    return found | {"curves": _curves(rows.rename(columns={"val/score": judged}), (*_CURVES, judged))}


def _config(config: dict[str, Any]) -> list[list[Any]]:
    """[field, value, whether it is the default], what differs first."""
    shown = [[k, text.word(v), k in FIELDS and text.word(v) == text.word(FIELDS[k])] for k, v in config.items()]
    return sorted(shown, key=lambda pair: pair[2])


def _plan(layers: Any) -> dict[str, Any] | None:
    if not isinstance(layers, list) or not layers:
        return None
    keys = [k for k in _PLAN if any(layer.get(k) not in (None, "") for layer in layers)]
    cells = [["×".join(map(str, v)) if isinstance(v := layer.get(k), list) else v for k in keys] for layer in layers]
    return {"keys": keys, "rows": cells}


def _curves(rows: pd.DataFrame, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns by name, (n,) floats, of at most POINTS epochs and the last; what is no number is NaN."""
    every = -(-len(rows) // POINTS)
    chosen = rows.iloc[sorted({*range(0, len(rows), every or 1), *([len(rows) - 1] if len(rows) else [])})]
    columns = {name: pd.to_numeric(chosen[name], errors="coerce").to_numpy(float) for name in names}
    found = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    return {"epoch": chosen["epoch"].to_numpy(float) + 1, **found} if found else {}


def _blocks(store: RunStore, curves: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """By run id, so that the first ids of the blocks are index enough; runs of one id (in several sweeps) stay together."""
    block: list[dict[str, Any]] = []
    places = curves.groupby(["sweep", "run_id"]).indices if len(curves) else {}
    for record in sorted(store.runs([]), key=lambda r: (r.run_id, r.sweep)):
        if len(block) >= BLOCK and block[-1]["id"] != record.run_id:
            yield block
            block = []
        block.append(detail(record, curves.iloc[places.get((record.sweep, record.run_id), [])]))
    if block:
        yield block


def book(results: Path, curves: pd.DataFrame) -> dict[str, Any]:
    """firsts: the first run id of each block. blocks: the packed blocks. files: their names beside the page, empty where it holds them."""
    firsts, blocks = [], []
    for block in _blocks(RunStore(results), curves):
        firsts.append(block[0]["id"])
        blocks.append(packed(compact(block)))
    inside = sum(map(len, blocks)) <= EMBEDDED
    names = [] if inside else [f"data/runs-{k:03d}-{hashlib.sha256(b.encode()).hexdigest()[:8]}.js" for k, b in enumerate(blocks)]
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
