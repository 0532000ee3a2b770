"""Records on disk -> tidy DataFrames. What cannot be read is named in `problems`, never dropped in silence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tbn_bench.config import RunConfig, make
from tbn_bench.records.store import NETWORK, McuRecord, RunRecord, RunStore, shown
from tbn_bench.reporting import published, tracks
from tbn_bench.scores import FIRST, SCORES, score_of

_SUMMARY = (
    *(f"test/{name}" for name in SCORES), "best_epoch", "test_samples", "seconds", "weights", "stored_bits", "stored_bytes",
    "stored_bits_weights", "tile_bits", "alpha_bits", "codebook_bits", "bias_bits", "norm_bits", "other_bits", "bits_per_weight", "bits_per_binarized_weight", "macs", "distinct_macs",
    "additions", "bitops_fp64", "file_bytes",
)  # fmt: skip
RUN_COLUMNS = (
    "sweep", "run_id", "group_id", "data", "model", "binarizer", "track", "seed", "epochs", "status", "error", "command",
    "commit", "dirty", "cpu", "score", *_SUMMARY,
)  # fmt: skip
CURVE_COLUMNS = ("sweep", "run_id", "group_id", "data", "model", "binarizer", "seed", "epoch", "train/loss", "val/loss", "val/score",
                 "tile/flip_rate", "tile/near_zero", "lr")  # fmt: skip
LATENCY_COLUMNS = (
    "device", "case", "data", "model", "sweep", "batch", "threads", "clock", "binarizer", "implementation", "run_id",
    "time_ms_p20", "time_ms_p50", "time_ms_p80", "n", "ratio", "ratio_p20", "ratio_p80", "ratio_compiled", "ratio_ort_int8",
    "relative_error", "tolerance", "top1", "tile_macs", "tile_gmacs", "weight_bytes", "memory_peak",
    "gpu_resting_bytes", "gpu_peak_bytes", "ceilings", "cache", "unavailable", "baseline", "command", "commit", "dirty",
)  # fmt: skip
_MCU_NAMES = (
    "data",
    "model",
    "binarizer",
    "activations",
    "target",
    "core",
    "sim",
)  # without which a measurement says nothing
_MCU_NUMBERS = (
    "top1_c", "top1_torch", "agreement", "test_samples", "table_bytes", "code_bytes", "constant_bytes", "flash_bytes",
    "flash_with_selftest_bytes", "arena_bytes", "stack_bytes", "ram_bytes", "vectors", "count", "clock_hz", "frames_per_s_estimate",
)  # fmt: skip
_MCU_WORDS = (
    "run_id",
    "sweep",
    "compiler",
    "optimize",
    "simulator",
    "computed_by",
    "unit",
    "fused_multiply_add",
    "model_sha256",
)
MCU_COLUMNS = (
    "device",
    "case",
    *_MCU_NAMES,
    *_MCU_NUMBERS,
    *_MCU_WORDS,
    "command",
    "commit",
    "dirty",
)


@dataclass(frozen=True, eq=False)  # one is like no other: groups() remembers what it made of it
class Records:
    """runs: a row per run. curves: a row per run and epoch, val/score being what the epoch is chosen by. latency: a row per timed
    implementation. mcu: a row per network on a simulated microcontroller, None where unknown. published: a row per published
    number. problems: what could not be read. configs: a row per run, a column per field of RunConfig. plans: (sweep, group id) -> the plan
    of one finished run, a row per weight."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    latency: pd.DataFrame
    mcu: pd.DataFrame
    published: pd.DataFrame
    problems: list[str]
    configs: pd.DataFrame
    plans: dict[tuple[str, str], list[dict[str, Any]]]

    @property
    def finished(self) -> pd.DataFrame:
        return self.runs[self.runs["status"] == "finished"]


def _run_row(run: RunRecord, config: RunConfig) -> dict[str, Any]:
    summary = run.summary or {}
    track = summary.get("track") or run.provenance.get("track")
    return {
        "sweep": run.sweep,
        "run_id": run.run_id,
        "group_id": config.group_id,
        **{k: getattr(config, k) for k in ("data", "model", "binarizer", "seed", "epochs")},
        "track": tracks.checked(track) if track else None,
        "status": run.status,
        "error": run.error,
        "command": f"{config.command} --sweep {run.sweep}",
        **{k: run.provenance.get(k) for k in ("commit", "dirty")},
        "cpu": run.provenance.get("hardware", {}).get("cpu"),
        "score": score_of(summary),
        **{k: summary.get(k) for k in _SUMMARY},
        "file_bytes": summary.get("file_bytes") or _network_bytes(run),
    }


def _network_bytes(run: RunRecord) -> int | None:
    """Size of the packed network beside the record; None where there is none."""
    try:
        return (run.path / NETWORK).stat().st_size
    except OSError:
        return None


def _mcu_row(record: McuRecord) -> dict[str, Any]:
    """MCU_COLUMNS of a measurement."""
    known = {key: record.info.get(key) for key in (*_MCU_NAMES, *_MCU_NUMBERS, *_MCU_WORDS)}
    source = {key: record.provenance.get(key) for key in ("command", "commit", "dirty")}
    return {"device": record.device, "case": record.case} | known | source


def _mcu(store: RunStore, problems: list[str]) -> pd.DataFrame:
    rows = list(map(_mcu_row, store.mcus(problems)))
    return pd.DataFrame(rows, columns=list(MCU_COLUMNS), dtype=object)  # None stays None


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


_SAME, _EACH = CURVE_COLUMNS[:7], CURVE_COLUMNS[7:]


def _curves(runs: list[dict[str, Any]], rows: list[list[dict[str, Any]]]) -> pd.DataFrame:
    """CURVE_COLUMNS, by column: a dictionary for each of millions of rows would take most of a report's time."""
    lengths = [len(r) for r in rows]
    values: dict[str, Any] = {"seed": np.repeat([run["seed"] for run in runs], lengths)}
    for key in (key for key in _SAME if key != "seed"):
        codes, names = pd.factorize(pd.Series([run[key] for run in runs], dtype=object))
        values[key] = pd.Categorical.from_codes(np.repeat(codes, lengths), names)
    for key in _EACH:
        names = [f"val/{run['score']}" if key == "val/score" else key for run in runs]
        values[key] = [row.get(name) for name, own in zip(names, rows, strict=True) for row in own]
    return pd.DataFrame(values, columns=list(CURVE_COLUMNS))


def _fill_scores(
    runs: list[dict[str, Any]], rows: list[list[dict[str, Any]]], tasks: list[str]
) -> None:
    """Gives runs without a result the score of finished ones of their task, else the first that their own rows have."""
    known = {
        task: run["score"]
        for run, task in zip(runs, tasks, strict=True)
        if run["status"] == "finished"
    }
    for run, own, task in zip(runs, rows, tasks, strict=True):
        if run["status"] != "finished":
            logged = next((name for name in SCORES if own and f"val/{name}" in own[0]), FIRST)
            run["score"] = known.get(task, logged)


def load(results: Path) -> Records:
    """Reads every record, and the published numbers, under `results`. Raises ValueError where there is none."""
    store, problems = RunStore(results), list[str]()
    runs, rows, configs, tasks, plans, latency = [], [], [], [], {}, []
    for run in store.runs(problems):
        try:
            config = make(run.config)
            row, own = _run_row(run, config), run.rows()
        except ValueError as error:
            what = " ".join(str(error).split())
            problems.append(f"{shown(run.path)}: {what}")
            continue
        values = config.model_dump(mode="json", include=set(run.config))
        runs.append(row)
        rows.append(own)
        tasks.append(config.task)
        configs.append({"sweep": run.sweep, "run_id": run.run_id, **values})
        if plan := (run.summary or {}).get("plan"):
            plans.setdefault((run.sweep, row["group_id"]), plan)
    tracks.fill(runs)
    _fill_scores(runs, rows, tasks)
    for record in store.latencies(problems):
        info, source = record.case_info, record.provenance
        same = {"device": record.device, "case": record.case, "command": source.get("command"), "commit": source.get("commit"),
                "dirty": source.get("dirty")}  # fmt: skip
        latency += [info | same | row for row in record.rows]
    mcu = _mcu(store, problems)
    if not runs and not latency and mcu.empty:
        what = f"; unreadable: {problems[0]}" if problems else ""
        raise ValueError(
            f"no records under {results}{what}; run: tbn-bench sweep sweeps/quickstart.yaml --results {results}"
        )
    return Records(
        _frame(runs, RUN_COLUMNS), _curves(runs, rows), _frame(latency, LATENCY_COLUMNS), mcu, published.read(results, problems), problems,
        pd.DataFrame(configs, columns=["sweep", "run_id", *RunConfig.model_fields]), plans,
    )  # fmt: skip
