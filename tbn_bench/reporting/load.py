"""Records on disk -> tidy DataFrames. Every record that cannot be read is named in `problems`."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tbn_bench import fingerprint
from tbn_bench.config import SHELF_OF, RunConfig, make, plugin_flags
from tbn_bench.records import robustness
from tbn_bench.records.certificate import Certificate, certificates
from tbn_bench.records.robustness import RobustnessRecord
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import LatencyRecord, McuRecord, RunStore
from tbn_bench.records.text import shown
from tbn_bench.reporting import columns, published, tracks
from tbn_bench.reporting.names import device
from tbn_bench.scores import FIRST, SCORES, score_of


@dataclass(frozen=True, eq=False)  # compared by identity: groups() caches by it
class Records:
    """The frames of a report. Values that are unknown are None.

    runs: a row per run.
    curves: a row per run and epoch; val/score is the score that chooses the epoch.
    latency: a row per timed implementation.
    mcu: a row per network on a simulated microcontroller.
    published: a row per published number.
    problems: the records that could not be read, and why.
    configs: a row per run, a column per field of RunConfig.
    plans: (sweep, group id) -> the plan of one finished run, a row per weight.
    certificates: all that are committed; their parts are not checked here.
    robustness: accuracy under faults, a record per run.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    latency: pd.DataFrame
    mcu: pd.DataFrame
    published: pd.DataFrame
    problems: list[str]
    configs: pd.DataFrame
    plans: dict[tuple[str, str], list[dict[str, Any]]]
    certificates: list[Certificate] = field(default_factory=list)
    robustness: list[RobustnessRecord] = field(default_factory=list)

    @property
    def newest(self) -> str | None:
        """The day on which the newest run was started, YYYY-MM-DD."""
        started = self.runs["started"].dropna()
        return str(max(started))[:10] if len(started) else None

    @property
    def finished(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "finished"]


@dataclass(frozen=True)
class _Run:
    """A run that could be read. row: of the frame of runs. epochs: its rows on disk."""

    record: RunRecord
    config: RunConfig
    row: dict[str, Any]
    epochs: list[dict[str, Any]]

    @property
    def is_finished(self) -> bool:
        return self.record.status == "finished"

    @property
    def plan(self) -> list[dict[str, Any]] | None:
        summary = self.record.summary or {}
        return summary.get("plan")

    def config_row(self) -> dict[str, Any]:
        """The fields that the record has; defaults that it does not name are left out."""
        named = set(self.record.config)
        values = self.config.model_dump(mode="json", include=named)
        return {"sweep": self.record.sweep, "run_id": self.record.run_id, **values}


def load(results: Path, ledger: Path | None = None) -> Records:
    """Reads every record, and the published numbers, under `results`.

    ledger: the folder with the published numbers, default `results`.
    Raises ValueError where there is no such folder.
    """
    if not results.is_dir():
        raise ValueError(f"no folder {results}; {first_steps(results)}")
    store = RunStore(results)
    problems: list[str] = []
    runs = _read_runs(store, problems)
    rows = [run.row for run in runs]
    tracks.fill(rows)
    _fill_scores(runs)
    latency: list[dict[str, Any]] = []
    for record in store.latencies(problems):
        latency += _latency_rows(record)
    mcu = [_mcu_row(record) for record in store.mcus(problems)]
    configs = [run.config_row() for run in runs]
    return Records(
        runs=_frame(rows, columns.RUN),
        curves=_curves(runs),
        latency=_frame(latency, columns.LATENCY),
        mcu=pd.DataFrame(mcu, columns=list(columns.MCU), dtype=object),  # None stays None
        published=published.read(ledger or results, problems),
        problems=problems,
        configs=_frame(configs, ("sweep", "run_id", *RunConfig.model_fields)),
        plans=_plans(runs),
        certificates=_certificates(results, problems),
        robustness=robustness.records(results, problems),
    )


def first_steps(results: Path) -> str:
    """What makes the first records of a folder."""
    return f"make the first records with: tbn-bench sweep quickstart --results {results}"


def _frame(rows: list[dict[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(names))


def _read_runs(store: RunStore, problems: list[str]) -> list[_Run]:
    runs = []
    for record in store.runs(problems):
        try:
            config = make(record.config)
            run = _Run(record, config, _run_row(record, config), record.rows())
        except ValueError as error:
            what = " ".join(str(error).split())
            problems.append(f"{shown(record.path)}: {what}")
            continue
        runs.append(run)

    return runs


def _run_row(run: RunRecord, config: RunConfig) -> dict[str, Any]:
    """columns.RUN of a run."""
    summary = run.summary or {}
    source = run.provenance
    track = summary.get("track") or source.get("track")
    row = {
        "sweep": run.sweep,
        "run_id": run.run_id,
        "group_id": config.group_id,
        "data": config.data,
        "model": config.model,
        "binarizer": config.binarizer,
        "seed": config.seed,
        "epochs": config.epochs,
        "track": tracks.checked(track) if track else None,
        "status": run.status,
        "error": run.error,
        "command": config.command_in(run.sweep) + plugin_flags(run.plugins),
        "commit": source.get("commit"),
        "dirty": source.get("dirty"),
        "stale": _changed_parts(run.fingerprint, config),
        "cpu": source.get("hardware", {}).get("cpu"),
        "started": source.get("started"),
        "score": score_of(summary),
    }
    for key in columns.SUMMARY:
        row[key] = summary.get(key)
    row["file_bytes"] = summary.get("file_bytes") or _network_bytes(run)
    return row


def _changed_parts(recorded: Any, config: RunConfig) -> str | None:
    """The parts of the code that have changed since a run: "binarizer, equations".

    None if none has, or if the record does not say what its code was.
    """
    if not isinstance(recorded, dict):
        return None
    entries = tuple(getattr(config, field) for field in SHELF_OF)
    parts = _changed_since(tuple(sorted(recorded.items())), entries)
    return ", ".join(parts) or None


@functools.lru_cache(maxsize=4096)
def _changed_since(
    recorded: tuple[tuple[str, str], ...], entries: tuple[str, ...]
) -> tuple[str, ...]:
    """Of many runs most have the same entries, and hashing them takes a millisecond."""
    config = RunConfig(**dict(zip(SHELF_OF, entries, strict=True)))
    return tuple(fingerprint.changed(dict(recorded), config) or ())


def _network_bytes(run: RunRecord) -> int | None:
    """Size of the packed network beside the record; None where there is none."""
    try:
        return (run.path / NETWORK).stat().st_size
    except OSError:
        return None


def _fill_scores(runs: list[_Run]) -> None:
    """Names the score of runs that are not finished.

    It is that of finished runs of the same task, or else the first score in the run's own rows.
    """
    known = {run.config.task: run.row["score"] for run in runs if run.is_finished}
    for run in runs:
        if not run.is_finished:
            run.row["score"] = known.get(run.config.task) or _logged_score(run)


def _logged_score(run: _Run) -> str:
    if not run.epochs:
        return FIRST

    logged = [name for name in SCORES if f"val/{name}" in run.epochs[0]]
    return logged[0] if logged else FIRST


def _curves(runs: list[_Run]) -> pd.DataFrame:
    """columns.CURVE, made column by column.

    A dictionary for each of millions of rows would take most of a report's time.
    """
    lengths = [len(run.epochs) for run in runs]
    values: dict[str, Any] = {}
    for key in columns.CURVE_OF_RUN:
        of_runs = [run.row[key] for run in runs]
        if key == "seed":
            values[key] = np.repeat(of_runs, lengths)
            continue
        codes, names = pd.factorize(pd.Series(of_runs, dtype=object))
        values[key] = pd.Categorical.from_codes(np.repeat(codes, lengths), names)
    for key in columns.CURVE_OF_EPOCH:
        column: list[Any] = []
        for run in runs:
            name = f"val/{run.row['score']}" if key == "val/score" else key
            column += [epoch.get(name) for epoch in run.epochs]
        values[key] = column
    return pd.DataFrame(values, columns=list(columns.CURVE))


def _certificates(results: Path, problems: list[str]) -> list[Certificate]:
    """Those whose config and score this version knows."""
    found = []
    for certificate in certificates(results, problems):
        try:
            make(certificate.claims.config)
            score_of({"score": certificate.claims.score})
        except ValueError as error:
            problems.append(f"certificate {certificate.name}: {error}")
            continue
        found.append(certificate)
    return found


def _plans(runs: list[_Run]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(sweep, group id) -> the plan of its first run that has one."""
    plans: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if run.plan:
            key = (run.record.sweep, run.row["group_id"])
            plans.setdefault(key, run.plan)
    return plans


def _latency_rows(record: LatencyRecord) -> list[dict[str, Any]]:
    """columns.LATENCY of each implementation of a case."""
    same = {"device": device(record.device), "case": record.case}
    for key in columns.PROVENANCE:
        same[key] = record.provenance.get(key)
    return [record.case_info | same | row for row in record.rows]


def _mcu_row(record: McuRecord) -> dict[str, Any]:
    """columns.MCU of a measurement."""
    row = {"device": record.device, "case": record.case}
    for key in columns.MCU_INFO:
        row[key] = record.info.get(key)
    for key in columns.PROVENANCE:
        row[key] = record.provenance.get(key)

    return row
