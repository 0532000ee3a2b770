"""From W&B back into the store: a mirrored run becomes a record, marked as imported."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tbn_bench.config import RunConfig, make
from tbn_bench.records import schema
from tbn_bench.records.files import RecordError, to_json
from tbn_bench.records.names import checked_name
from tbn_bench.records.store import RunStore
from tbn_bench.tracking.wandb_log import Log, read

OURS = ("provenance", "sweep")  # in the mirror's config beside RunConfig's fields
# Always written: a config without them is another program's.
NEEDED = ("data", "model", "binarizer")
BOTH = "seconds"  # of a row and of a summary; W&B's summary also holds the last row


def logs(path: Path) -> list[Path]:
    """The .wandb files at a path: the file itself, or all of the offline runs below a folder.

    Raises ValueError for none.
    """
    if path.is_file():
        return [path]
    found = list(path.rglob("run-*.wandb"))
    if not found:
        raise ValueError(f"{path} holds no W&B run (offline-run-*/run-*.wandb)")
    return sorted(found, key=lambda file: (file.parent.name, str(file)))


def identify(log: Log) -> tuple[str, RunConfig, dict[str, Any]]:
    """(sweep, config, provenance) of one of our runs.

    Raises ValueError naming the config keys that do not fit, or a sweep whose name is not valid.
    """
    if not log.wandb_id:
        raise ValueError(
            f"{log.path} is empty: its process died before W&B had written anything "
            "(it writes 32 KiB at a time)"
        )
    values = {key: value for key, value in log.config.items() if key not in OURS}
    missing = [key for key in NEEDED if key not in values]
    if missing:
        others = [key for key in values if key not in RunConfig.model_fields]
        said = f"; it has {', '.join(others)}" if others else ""
        raise ValueError(
            f"{log.path} is no run of tbn_bench: its config lacks {', '.join(missing)}{said}"
        )
    try:
        config = make(values)
    except ValueError as error:
        why = "; ".join(str(error).splitlines())
        raise ValueError(f"{log.path} is no run of this version: {why}") from error
    try:
        sweep = checked_name(log.config.get("sweep") or log.group or "single")
    except RecordError as error:
        raise ValueError(f"{log.path}: its sweep is not imported: {error}") from error
    source = log.config.get("provenance")
    if not isinstance(source, dict):
        source = {}
    return sweep, config, source


def merge(parts: list[Log]) -> Log:
    """One log of a run that was resumed, from its folders in the order of their starts.

    A later row of an epoch counts. Raises ValueError for a row whose epoch is no whole number.
    """
    whole = parts[-1]
    rows: dict[int, dict[str, Any]] = {}
    for part in parts:
        own = _by_epoch(part)
        if own:
            first = min(own)
            rows = {epoch: row for epoch, row in rows.items() if epoch < first}
        rows |= own
    whole.rows = [rows[epoch] for epoch in sorted(rows)]
    return whole


def _by_epoch(part: Log) -> dict[int, dict[str, Any]]:
    """Epoch -> row; rows without an epoch are left out."""
    rows = [row for row in part.rows if "epoch" in row]
    for row in rows:
        epoch = row["epoch"]
        if type(epoch) is not int:
            raise ValueError(
                f"{part.path}: an epoch must be a whole number, got {str(epoch)[:40]!r}"
            )
    return {row["epoch"]: row for row in rows}


def outcome(log: Log) -> tuple[str, dict[str, Any]]:
    """(status, final numbers).

    Finished only with an exit of 0 and the test score that the summary names.
    """
    said = log.summary.get("status")
    score = log.summary.get("score")
    has_score = f"test/{score}" in log.summary
    if log.exit_code == 0 and said in (None, "finished") and has_score:
        return "finished", _final(log)
    if said in ("failed", "diverged", "interrupted"):
        return said, {}
    return "failed" if log.exit_code else "interrupted", {}


def _final(log: Log) -> dict[str, Any]:
    """The summary without W&B's copy of the last row, with the plan."""
    left_out = {"status"}
    for row in log.rows:
        left_out.update(row)
    left_out.discard(BOTH)
    summary = {key: value for key, value in log.summary.items() if key not in left_out}
    plan = log.plan()
    if plan is not None:
        summary["plan"] = plan
    return summary


def store_run(store: RunStore, log: Log, origin: str) -> str:
    """Writes one record and returns "sweep/run_id (status)".

    Raises ValueError where it exists already or is not ours.
    """
    sweep, config, source = identify(log)
    folder = store.path(sweep, config.run_id)
    if (folder / "run.json").exists():
        raise ValueError(
            f"{origin}: {sweep}/{config.run_id} is in {store.root} already, which is the record; "
            "nothing imported"
        )
    status, summary = outcome(log)
    marked = {**source, "imported": True, "imported_from": origin}
    _check(log.rows, summary, marked)
    held = store.claim(sweep, config.run_id, config.model_dump(mode="json"), marked)
    if held is None:
        raise ValueError(f"{origin}: {folder} has a summary but no run.json; delete it first")
    for row in log.rows:
        held.log(row)
    if status == "finished":
        held.finish(summary)
    else:
        why = "said by the mirror"
        if log.exit_code is None:
            why = "no exit record: the process was killed, or the file was cut off"
        held.fail(status, f"imported from W&B, {len(log.rows)} rows ({why})")
    return f"{sweep}/{config.run_id} ({status})"


def _check(rows: list[dict[str, Any]], summary: dict[str, Any], source: dict[str, Any]) -> None:
    """Raises ValueError for what `runs verify` would refuse; a log may come from anybody."""
    written = [schema.parse(to_json(row).encode()) for row in rows]
    schema.rows(written)
    for name, model, value in (
        ("summary", schema.Summary, summary),
        ("provenance", schema.Provenance, source),
    ):
        try:
            schema.check(model, schema.parse(to_json(value).encode()), strict=True)
        except ValueError as error:
            raise ValueError(f"its {name} is not imported: {error}") from error


def import_logs(paths: Iterable[Path], store: RunStore) -> tuple[list[str], list[str]]:
    """(lines about imported runs, lines about refused ones)."""
    refused: list[str] = []
    files: list[Path] = []
    for path in paths:
        try:
            files += logs(path)
        except (ValueError, OSError) as error:
            refused.append(str(error))
    groups: dict[tuple[str, str], list[Log]] = {}
    for file in files:
        try:
            log = read(file)
            sweep, config, _ = identify(log)
        except (ValueError, OSError) as error:
            refused.append(str(error))
            continue
        parts = groups.setdefault((sweep, config.run_id), [])
        parts.append(log)
    whole = []
    for parts in groups.values():
        origin = str(parts[-1].path)
        try:
            whole.append((merge(parts), origin))
        except ValueError as error:
            refused.append(str(error))
    return _store_all(store, whole, refused)


def import_project(project: str, store: RunStore, api: Any) -> tuple[list[str], list[str]]:
    """The same from a W&B server, through wandb.Api or an object like it.

    The plan stays there: it is a file, not a number.
    """
    found = []
    for run in api.runs(project):
        origin = f"wandb:{project}/{run.id}"
        found.append((_from_api(run), origin))
    return _store_all(store, found, [])


def _from_api(run: Any) -> Log:
    codes = {"finished": 0, "failed": 1}  # crashed and killed runs have none
    return Log(
        Path(run.id),
        wandb_id=run.id,
        group=getattr(run, "group", None) or "",
        config=dict(run.config),
        rows=[_scalars(row) for row in run.scan_history()],
        summary=_scalars(dict(run.summary)),
        exit_code=codes.get(run.state),
    )


def _scalars(row: dict[str, Any]) -> dict[str, Any]:
    """Without W&B's own values and without media."""
    found = {}
    for key, value in row.items():
        is_media = hasattr(value, "keys")
        if key.startswith("_") or is_media or value is None:
            continue
        found[key] = value
    return found


def _store_all(
    store: RunStore, found: list[tuple[Log, str]], refused: list[str]
) -> tuple[list[str], list[str]]:
    imported = []
    for log, origin in found:
        try:
            imported.append(store_run(store, log, origin))
        except ValueError as error:
            said = str(error)
            refused.append(said if said.startswith(origin) else f"{origin}: {said}")
    return imported, refused
