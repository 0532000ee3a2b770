"""One small row per run, from a cache beside the records: results/index.json.

The cache is never the truth: a run is read again when the time, size or inode of its run.json or summary.json changed, a run that is gone
drops out, and a cache that is damaged, or of another version or RunConfig, is made anew. Writers replace it whole; the last one wins.
"""

import contextlib
import functools
import hashlib
import json
import os
import zlib
from pathlib import Path
from types import NoneType
from typing import Any

from tbn_bench.config import RunConfig, make
from tbn_bench.records import store as records
from tbn_bench.records.schema import parse
from tbn_bench.records.store import (
    SCHEMA_VERSION,
    RecordError,
    RunRecord,
    RunStore,
    read_json,
    write_atomic,
)
from tbn_bench.runs.lock import held
from tbn_bench.scores import COSTS, FIRST, SCORES

NAME = "index.json"
VERSION = 2  # of the rows: raise it when _row changes, or what a record may hold
FILES = ("run.json", "summary.json")
STATUSES = records.STATUSES
FIELDS: dict[str, Any] = {
    k: ",".join(f.default) if isinstance(f.default, tuple) else f.default
    for k, f in RunConfig.model_fields.items()
}
PROVENANCE = (
    "track",
    "commit",
    "dirty",
    "started",
    "cpu",
    "device",
    "threads",
    "torch",
    "python",
    "command",
)
RESULTS = ("test/loss", *(f"test/{name}" for name in SCORES), *(f"val/{name}_last" for name in SCORES),
           "best_epoch", "test_samples", "train_samples", "seconds")  # fmt: skip
_SCALARS = {str, int, float, bool, NoneType}
HEAD = ("sweep", "run_id", "group_id", "status", "error", "score", "value")
_FORMAT = (
    f"{VERSION}.{SCHEMA_VERSION}."
    + hashlib.sha256(repr((FIELDS, sorted(SCORES))).encode()).hexdigest()[:12]
)

Row = dict[str, Any]


def columns(rows: list[Row]) -> list[str]:
    """Every column that rows have or may have, in an order that new ones only lengthen."""
    known = dict.fromkeys((*HEAD, *FIELDS, *RESULTS, *COSTS, *PROVENANCE))
    return [*known, *sorted({k for row in rows for k in row} - set(known))]


def rows(store: RunStore, problems: list[str] | None = None) -> list[Row]:
    """A row per readable run, by sweep and run id; a column without a value is None or absent. Problems as in RunStore.runs.

    status is "dead" for a run that says "running" and is held by no process.
    """
    old = _cached(store.root / NAME)
    new: dict[str, list[Any]] = {}
    for sweep, run_id in store.folders(problems):
        key, now = (
            f"{sweep}/{run_id}",
            stamp(f"{store.root}/runs/{sweep}/{run_id}"),
        )  # the stamp first: it may only be too old
        entry = old.get(key)
        if entry is not None and entry[0] == now:
            new[key] = entry
            continue
        try:
            new[key] = [now, _row(store.read(sweep, run_id))]
        except RecordError as error:
            if problems is None:
                raise
            problems.append(str(error))
    if len(new) != len(old) or any(old.get(key) is not entry for key, entry in new.items()):
        _save(store.root / NAME, new)
    return [_whole(store, key, row) for key, (_, row) in new.items()]


def _whole(store: RunStore, key: str, row: Row) -> Row:
    """A row with its defaults. Which run it is, its folder says: a cache may come from elsewhere."""
    sweep, run_id = key.split("/")
    whole = {**FIELDS, **row, "sweep": sweep, "run_id": run_id}
    if whole["status"] == "running" and not held(store.path(sweep, run_id)):
        whole["status"] = "dead"
    return whole


def stamp(folder: str) -> list[int]:
    """Changes with every new run.json or summary.json."""
    found = []
    for name in FILES:
        try:
            stat = os.stat(f"{folder}/{name}")
            found += [stat.st_mtime_ns, stat.st_size, stat.st_ino]
        except OSError:
            found += [0, 0, 0]
    return found


def _cached(path: Path) -> dict[str, list[Any]]:
    """Run -> [stamp, row]; empty where the cache cannot be used."""
    try:
        value = read_json(path)
        content = value["runs"].encode()
        if value["format"] != _FORMAT or value["crc32"] != zlib.crc32(content):
            return {}
        found: dict[str, list[Any]] = parse(content)
        return found if all(_is_entry(key, *entry) for key, entry in found.items()) else {}
    except (RecordError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _is_entry(key: str, _: list[int], row: Row) -> bool:
    """Whether a row is of the run that it stands for, and holds what rows hold."""
    own = f"{row['sweep']}/{row['run_id']}" == key and row["status"] in STATUSES
    return own and set(map(type, row.values())) <= _SCALARS


def _save(path: Path, entries: dict[str, list[Any]]) -> None:
    text = json.dumps(entries, separators=(",", ":"))
    with contextlib.suppress(RecordError, OSError):  # a folder that cannot be written has no cache
        write_atomic(path, {"format": _FORMAT, "crc32": zlib.crc32(text.encode()), "runs": text})


@functools.lru_cache(65536)
def _identity(config: str) -> tuple[dict[str, Any], str | None]:
    """(fields that are not defaults, group id) of a config without its seed; as it stands, and None, where this version refuses it."""
    values = json.loads(config)
    try:
        found = make(values)
    except ValueError:
        return values, None
    return found.non_defaults, found.run_id


def _row(run: RunRecord) -> Row:
    """What is None, or a default of RunConfig, is left out."""
    config, group_id = _identity(
        json.dumps({k: v for k, v in run.config.items() if k != "seed"}, sort_keys=True)
    )
    config = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in config.items()}
    summary = {k: v for k, v in (run.summary or {}).items() if not isinstance(v, list | dict)}
    score = summary.get("score", FIRST) if run.summary is not None else None
    source = {
        **run.provenance,
        **run.provenance.get("hardware", {}),
        **run.provenance.get("versions", {}),
    }
    row = {
        **summary, **{k: source.get(k) for k in PROVENANCE}, "track": summary.get("track", source.get("track")),
        **config, "seed": run.config.get("seed", 0), "sweep": run.sweep, "run_id": run.run_id, "group_id": group_id,
        "status": run.status, "error": run.error, "score": score, "value": summary.get(f"test/{score}"),
    }  # fmt: skip
    return {k: v for k, v in row.items() if v is not None and k != "schema_version"}
