"""One small row per run, from a cache beside the records: results/index.json.

The records decide, never the cache. A run is read again when the time, size or inode of its
run.json or summary.json has changed; a run that is gone drops out; a cache that is damaged, or of
another version or RunConfig, is made anew. Writers replace it whole, and the last one wins.
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
from tbn_bench.records.files import SCHEMA_VERSION, RecordError, read_json, write_atomic
from tbn_bench.records.run import RunRecord
from tbn_bench.records.schema import STATUSES, parse
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import COSTS
from tbn_bench.runs.lock import held
from tbn_bench.scores import FIRST, SCORES

NAME = "index.json"
VERSION = 2  # of the rows: raise it when _row changes, or what a record may hold
FILES = ("run.json", "summary.json")
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
RESULTS = (
    "test/loss",
    *(f"test/{name}" for name in SCORES),
    *(f"val/{name}_last" for name in SCORES),
    "best_epoch",
    "test_samples",
    "train_samples",
    "seconds",
)
HEAD = ("sweep", "run_id", "group_id", "status", "error", "score", "value")
_SCALARS = {str, int, float, bool, NoneType}
_MANY = 65536  # configs whose identity is kept

Row = dict[str, Any]
Stamp = list[int]
Entries = dict[str, list[Any]]  # "sweep/run id" -> [Stamp, Row], as JSON has it


def _defaults() -> dict[str, Any]:
    """Field of RunConfig -> its default, as a row has it."""
    found = {}
    for name, field in RunConfig.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(default)
        found[name] = default
    return found


def _format() -> str:
    """Changes with everything that decides what a row holds."""
    known = repr((FIELDS, sorted(SCORES)))
    digest = hashlib.sha256(known.encode()).hexdigest()
    of_columns = digest[:12]
    return f"{VERSION}.{SCHEMA_VERSION}.{of_columns}"


FIELDS = _defaults()
_FORMAT = _format()


def columns(rows: list[Row]) -> list[str]:
    """Every column that rows have or may have. New ones are last."""
    known = dict.fromkeys((*HEAD, *FIELDS, *RESULTS, *COSTS, *PROVENANCE))
    found: set[str] = set()
    for row in rows:
        found.update(row)
    return [*known, *sorted(found - set(known))]


def rows(store: RunStore, problems: list[str] | None = None, keep_cache: bool = True) -> list[Row]:
    """A row per readable run, by sweep and run id. A column without a value is None or absent.

    keep_cache: new rows are written into the cache.

    status is "dead" for a run that says "running" and is held by no process. Problems as in
    RunStore.runs.
    """
    path = store.root / NAME
    old = _cached(path)
    new: Entries = {}
    for sweep, run_id in store.folders(problems):
        key = f"{sweep}/{run_id}"
        # before the record is read: then a stamp can only be too old
        now = stamp(f"{store.root}/runs/{key}")
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
    changed = any(old.get(key) is not entry for key, entry in new.items())
    if keep_cache and (changed or len(new) != len(old)):
        _save(path, new)
    return [_whole(store, key, row) for key, (_, row) in new.items()]


def _whole(store: RunStore, key: str, row: Row) -> Row:
    """A row with its defaults. Its folder says which run it is: a cache may come from elsewhere."""
    sweep, run_id = key.split("/")
    whole = {**FIELDS, **row, "sweep": sweep, "run_id": run_id}
    if whole["status"] == "running" and not held(store.path(sweep, run_id)):
        whole["status"] = "dead"
    return whole


def stamp(folder: str) -> Stamp:
    """Changes with every new run.json or summary.json."""
    found = []
    for name in FILES:
        try:
            stat = os.stat(f"{folder}/{name}")
        except OSError:
            found += [0, 0, 0]
        else:
            found += [stat.st_mtime_ns, stat.st_size, stat.st_ino]
    return found


def _cached(path: Path) -> Entries:
    """{} where the cache cannot be used."""
    try:
        value = read_json(path)
        content = value["runs"].encode()
        if value["format"] != _FORMAT or value["crc32"] != zlib.crc32(content):
            return {}
        found: Entries = parse(content)
        usable = all(_is_entry(key, *entry) for key, entry in found.items())
    except (RecordError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    return found if usable else {}


def _is_entry(key: str, _: Stamp, row: Row) -> bool:
    """Whether a row is of the run that it stands for, and has the types of a row."""
    own = f"{row['sweep']}/{row['run_id']}"
    if own != key or row["status"] not in STATUSES:
        return False
    types = {type(value) for value in row.values()}
    return types <= _SCALARS


def _save(path: Path, entries: Entries) -> None:
    text = json.dumps(entries, separators=(",", ":"))
    content = {"format": _FORMAT, "crc32": zlib.crc32(text.encode()), "runs": text}
    with contextlib.suppress(RecordError, OSError):  # a folder that cannot be written has no cache
        write_atomic(path, content)


@functools.lru_cache(_MANY)
def _identity(config: str) -> tuple[dict[str, Any], str | None]:
    """(fields that are not defaults, group id) of a config without its seed, given as JSON.

    Where this version refuses the config: (all its fields, None).
    """
    values = json.loads(config)
    try:
        found = make(values)
    except ValueError:
        return values, None
    return found.non_defaults, found.run_id


def _row(run: RunRecord) -> Row:
    """Without what is None, or a default of RunConfig."""
    summary = {}
    for name, value in (run.summary or {}).items():
        if not isinstance(value, list | dict) and name != "schema_version":
            summary[name] = value
    score = None if run.summary is None else summary.get("score", FIRST)
    unseeded = {name: value for name, value in run.config.items() if name != "seed"}
    config, group_id = _identity(json.dumps(unseeded, sort_keys=True))
    row = {
        **summary,
        **_source(run.provenance, summary),
        **{name: _joined(value) for name, value in config.items()},
        "seed": run.config.get("seed", 0),
        "sweep": run.sweep,
        "run_id": run.run_id,
        "group_id": group_id,
        "status": run.status,
        "error": run.error,
        "score": score,
        "value": summary.get(f"test/{score}"),
    }
    return {name: value for name, value in row.items() if value is not None}


def _source(provenance: dict[str, Any], summary: dict[str, Any]) -> Row:
    hardware = provenance.get("hardware", {})
    versions = provenance.get("versions", {})
    every = {**provenance, **hardware, **versions}
    found = {name: every.get(name) for name in PROVENANCE}
    found["track"] = summary.get("track", found["track"])
    return found


def _joined(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return ",".join(map(str, value))
