"""All that a run's own view shows, packed in blocks of runs.

A block is unpacked when the reader opens one of its runs.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tbn_bench.records import predictions, tiles
from tbn_bench.records.files import RecordError
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.reporting.page.packing import columns, compact, packed, shortened
from tbn_bench.runs import show, text
from tbn_bench.runs.index import COSTS, FIELDS
from tbn_bench.runs.lock import held
from tbn_bench.scores import FIRST

BLOCK = 512  # runs: many runs are alike, and a browser unpacks these in 0.05 s
# Bytes of blocks that the page itself may hold. Further blocks are script files beside the page.
EMBEDDED = 400_000
POINTS = 100  # of a curve
DIGITS = 3  # of a value in a small chart; scores differ less than losses and have one more
TILE_POINTS = 25  # of a layer's curve: there are many layers
MOST_CLASSES = 20  # of a confusion matrix: a larger one fits on no screen
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
_HEAD = ("best_epoch", "test_samples", "train_samples", "seconds")  # shown after the scores

Curves = dict[str, np.ndarray]


def detail(record: RunRecord, curves: Curves) -> dict[str, Any]:
    """curves: columns of the run in Records.curves."""
    summary = record.summary or {}
    judged = f"val/{summary.get('score', FIRST)}"
    is_dead = record.status == "running" and not held(record.path)
    drawn = {}
    for name, values in _thinned(curves).items():
        if name == "val/score":
            drawn[judged] = shortened(values, DIGITS + 1)
        elif name == "epoch":
            drawn[name] = shortened(values)
        else:
            drawn[name] = shortened(values, DIGITS)

    return {
        "id": record.run_id,
        "sweep": record.sweep,
        "status": "dead" if is_dead else record.status,
        "error": record.error,
        "command": show.command(record),
        "config": _config(record.config),
        "scores": _scores(summary),
        "cost": [[key, summary[key]] for key in COSTS if key in summary],
        "environment": show.flat(record.provenance),
        "plan": _plan(summary.get("plan")),
        "judged": judged,
        "curves": drawn,
        "confusion": _confusion(record),
        "tiles": _tiles(record),
    }


def _tiles(record: RunRecord) -> dict[str, Any] | None:
    """epochs, and layer -> shares by epoch of flips and of sums near zero; None without any."""
    rows = tiles.read(record.path)
    if not rows:
        return None
    step = -(-len(rows) // TILE_POINTS)
    rows = rows[::step]
    found: dict[str, Any] = {"epochs": [row["epoch"] + 1 for row in rows]}
    for key in ("flips", "near_zero"):
        layers = dict.fromkeys(name for row in rows for name in row[key])
        found[key] = {name: [row[key].get(name) for row in rows] for name in layers}
    return {key: shortened(value, DIGITS) for key, value in found.items()}


def _confusion(record: RunRecord) -> list[list[int]] | None:
    """Counts of test samples, a row per true class; None without predictions of few classes.

    A damaged file counts as none: the rest of the run is still worth showing.
    """
    try:
        found = predictions.read(record.path)
    except RecordError as error:
        tell(f"left out: {error}")
        return None
    if found is None:
        return None
    counts: list[list[int]] = found.confusion().tolist()
    return counts if len(counts) <= MOST_CLASSES else None


def _scores(summary: dict[str, Any]) -> list[list[str]]:
    """[name, text]: the scores of the test set, then epoch, samples and seconds."""
    found = []
    for key, value in summary.items():
        if key.startswith("test/"):
            name = key.removeprefix("test/")
            found.append([key, text.score(name, value)])
    known = [key for key in _HEAD if key in summary]
    return found + [[key, text.word(summary[key])] for key in known]


def _config(config: dict[str, Any]) -> list[list[Any]]:
    """[field, value, whether it is the default]; fields that differ come first."""
    shown = []
    for field, value in config.items():
        word = text.word(value)
        is_default = field in FIELDS and word == text.word(FIELDS[field])
        shown.append([field, word, is_default])
    return sorted(shown, key=lambda row: row[2])


def _plan(layers: Any) -> dict[str, Any] | None:
    """Columns that some layer has, and a row of cells per layer."""
    if not isinstance(layers, list) or not layers:
        return None
    keys = [key for key in _PLAN if _is_filled(key, layers)]
    rows = []
    for layer in layers:
        rows.append([_cell(layer.get(key)) for key in keys])
    return {"keys": keys, "rows": rows}


def _is_filled(key: str, layers: list[dict[str, Any]]) -> bool:
    return any(layer.get(key) not in (None, "") for layer in layers)


def _cell(value: Any) -> Any:
    return "×".join(map(str, value)) if isinstance(value, list) else value


def _thinned(curves: Curves) -> Curves:
    """(n,) floats, of at most POINTS epochs and the last; columns without a number are left out."""
    n = len(curves["epoch"])
    if not n:
        return {}
    step = -(-n // POINTS)
    chosen = sorted({*range(0, n, step), n - 1})
    found = {}
    for name, values in curves.items():
        if name != "epoch" and np.isfinite(values).any():
            found[name] = values[chosen]
    if not found:
        return {}
    return {"epoch": curves["epoch"][chosen] + 1, **found}


def _blocks(store: RunStore, curves: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """By run id, so that the first ids of the blocks are index enough.

    Runs of one id (in several sweeps) stay together.
    """
    places = {}
    if len(curves):
        places = curves.groupby(["sweep", "run_id"], observed=True).indices
    columns = _columns(curves)
    block: list[dict[str, Any]] = []
    for record in sorted(store.runs([]), key=lambda run: (run.run_id, run.sweep)):
        if len(block) >= BLOCK and block[-1]["id"] != record.run_id:
            yield block
            block = []
        rows = places.get((record.sweep, record.run_id), [])
        own = {name: values[rows] for name, values in columns.items()}
        block.append(detail(record, own))
    if block:
        yield block


def _columns(curves: pd.DataFrame) -> Curves:
    """The drawn columns of all runs as floats; NaN where there is no number."""
    columns = {}
    for name in ("epoch", "val/score", *_CURVES):
        numbers = pd.to_numeric(curves[name], errors="coerce")
        columns[name] = numbers.to_numpy(float)
    return columns


def book(results: Path, curves: pd.DataFrame) -> dict[str, Any]:
    """firsts: the first run id of each block. blocks: the packed blocks.

    files: their names beside the page, empty where the page holds them.
    """
    firsts = []
    blocks = []
    for block in _blocks(RunStore(results), curves):
        firsts.append(block[0]["id"])
        blocks.append(packed(compact(_by_kind(block))))
    names = []
    if sum(map(len, blocks)) > EMBEDDED:
        names = [_file_name(place, block) for place, block in enumerate(blocks)]
    return {"firsts": firsts, "blocks": blocks, "files": names}


def _by_kind(block: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """A block as columns, and its curves as columns of curves."""
    found = columns(block)
    return found | {"curves": columns(found["curves"])}


def _file_name(place: int, block: str) -> str:
    digest = hashlib.sha256(block.encode()).hexdigest()
    return f"data/runs-{place:03d}-{digest[:8]}.js"


def write_beside(found: dict[str, Any], out: Path) -> None:
    """The files of a book, before the page that asks for them."""
    if found["files"]:
        (out / "data").mkdir(parents=True, exist_ok=True)
    pairs = zip(found["files"], found["blocks"], strict=False)
    for place, (name, block) in enumerate(pairs):
        script = f'runBlock({place},"{block}");\n'
        (out / name).write_text(script, encoding="ascii")


def remove_stale(found: dict[str, Any], out: Path) -> None:
    for path in (out / "data").glob("runs-*.js"):
        if f"data/{path.name}" not in found["files"]:
            path.unlink(missing_ok=True)
