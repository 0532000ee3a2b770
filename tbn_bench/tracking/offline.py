"""From W&B back into the store: a mirrored run becomes a record, marked as imported."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tbn_bench.config import RunConfig, make
from tbn_bench.records import schema
from tbn_bench.records.store import RecordError, RunStore, checked_name, to_json
from tbn_bench.tracking.wandb_log import Log, read

OURS = ("provenance", "sweep")  # in the mirror's config beside RunConfig's fields
NEEDED = (
    "data",
    "model",
    "binarizer",
)  # always written: a config without them is another program's
BOTH = "seconds"  # of a row and of a summary; W&B's summary also holds the last row


def logs(path: Path) -> list[Path]:
    """The .wandb files at a path: the file itself, or all of the offline runs below a folder. Raises ValueError for none."""
    found = (
        [path]
        if path.is_file()
        else sorted(path.rglob("run-*.wandb"), key=lambda p: (p.parent.name, str(p)))
    )
    if not found:
        raise ValueError(f"{path} holds no W&B run (offline-run-*/run-*.wandb)")
    return found


def identify(log: Log) -> tuple[str, RunConfig, dict[str, Any]]:
    """(sweep, config, provenance) of one of our runs.

    Raises ValueError naming the config keys that do not fit, or a sweep whose name is none.
    """
    values = {k: v for k, v in log.config.items() if k not in OURS}
    if not log.wandb_id:
        raise ValueError(
            f"{log.path} is empty: its process died before W&B had written anything (it writes 32 KiB at a time)"
        )
    missing = [k for k in NEEDED if k not in values]
    if missing:
        others = [k for k in values if k not in RunConfig.model_fields]
        said = f"; it has {', '.join(others)}" if others else ""
        raise ValueError(
            f"{log.path} is no run of tbn_bench: its config lacks {', '.join(missing)}{said}"
        )
    try:
        config = make(values)
    except ValueError as error:
        raise ValueError(
            f"{log.path} is no run of this version: {'; '.join(str(error).splitlines())}"
        ) from error
    try:
        sweep = checked_name(log.config.get("sweep") or log.group or "single")
    except RecordError as error:
        raise ValueError(f"{log.path}: its sweep is not imported: {error}") from error
    source = log.config.get("provenance")
    return sweep, config, source if isinstance(source, dict) else {}


def merge(parts: list[Log]) -> Log:
    """One log of a run that was resumed, from its folders in the order of their starts: a later row of an epoch counts.

    Raises ValueError for a row whose epoch is no whole number.
    """
    whole = parts[-1]
    rows: dict[int, dict[str, Any]] = {}
    for part in parts:
        odd = [row["epoch"] for row in part.rows if type(row.get("epoch", 0)) is not int]
        if odd:
            raise ValueError(
                f"{part.path}: an epoch must be a whole number, got {str(odd[0])[:40]!r}"
            )
        first = min((row["epoch"] for row in part.rows if "epoch" in row), default=None)
        rows = {epoch: row for epoch, row in rows.items() if first is None or epoch < first}
        rows |= {row["epoch"]: row for row in part.rows if "epoch" in row}
    whole.rows = [rows[epoch] for epoch in sorted(rows)]
    return whole


def outcome(log: Log) -> tuple[str, dict[str, Any]]:
    """(status, final numbers). Finished only with an exit of 0 and the test score that the summary names."""
    said = log.summary.get("status")
    score = log.summary.get("score")
    if log.exit_code == 0 and said in (None, "finished") and f"test/{score}" in log.summary:
        in_rows = {k for row in log.rows for k in row} - {BOTH}
        summary = {k: v for k, v in log.summary.items() if k not in in_rows and k != "status"}
        plan = log.plan()
        if plan is not None:
            summary["plan"] = plan
        return "finished", summary
    if said in ("failed", "diverged", "interrupted"):
        return said, {}
    return "failed" if log.exit_code else "interrupted", {}


def store_run(store: RunStore, log: Log, origin: str) -> str:
    """Writes one record and returns "sweep/run_id (status)". Raises ValueError where it exists already or is not ours."""
    sweep, config, source = identify(log)
    folder = store.path(sweep, config.run_id)
    if (folder / "run.json").exists():
        raise ValueError(
            f"{origin}: {sweep}/{config.run_id} is in {store.root} already, which is the record; nothing imported"
        )
    status, summary = outcome(log)
    source = {**source, "imported": True, "imported_from": origin}
    _check(log.rows, summary, source)
    held = store.claim(sweep, config.run_id, config.model_dump(mode="json"), source)
    if held is None:
        raise ValueError(f"{origin}: {folder} has a summary but no run.json; delete it first")
    for row in log.rows:
        held.log(row)
    if status == "finished":
        held.finish(summary)
    else:
        why = (
            "no exit record: the process was killed, or the file was cut off"
            if log.exit_code is None
            else "said by the mirror"
        )
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
    """(what was imported, what was refused and why)."""
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
        groups.setdefault((sweep, config.run_id), []).append(log)
    whole = []
    for parts in groups.values():
        try:
            whole.append((merge(parts), str(parts[-1].path)))
        except ValueError as error:
            refused.append(str(error))
    return _store_all(store, whole, refused)


def import_project(project: str, store: RunStore, api: Any) -> tuple[list[str], list[str]]:
    """The same from a W&B server, through wandb.Api (or what looks like it). The plan stays there: it is a file, not a number."""
    found = [(_from_api(run), f"wandb:{project}/{run.id}") for run in api.runs(project)]
    return _store_all(store, found, [])


def _from_api(run: Any) -> Log:
    def scalars(row: dict[str, Any]) -> dict[str, Any]:
        return {
            k: v
            for k, v in row.items()
            if not k.startswith("_") and not hasattr(v, "keys") and v is not None
        }

    rows = [scalars(row) for row in run.scan_history()]
    code = {"finished": 0, "failed": 1, "crashed": None, "killed": None}.get(run.state)
    return Log(
        Path(run.id),
        run.id,
        getattr(run, "group", None) or "",
        dict(run.config),
        rows,
        scalars(dict(run.summary)),
        code,
    )


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
