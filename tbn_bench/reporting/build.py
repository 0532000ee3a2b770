"""report(results, out): every table and figure as files, with a provenance sidecar each, and one self-contained page."""

import contextlib
import importlib
import json
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import altair

from tbn_bench import __version__
from tbn_bench.records.store import RecordError, tell
from tbn_bench.reporting import figures, protocol, style, tables, write
from tbn_bench.reporting.load import Records, load
from tbn_bench.reporting.page import details, render

_FORMATS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
MANY = 100  # runs
_MAIN = "comparison"  # one table per track: comparison, comparison_w1a1, ...
_FIRST = (_MAIN, "accuracy_bits", "accuracy_latency", "training_curves")


def entries(package: Any) -> Iterator[tuple[str, Any]]:
    """(name, module) of every table or figure; the main ones first, then by name."""
    found = sorted(
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")
    )
    for name in sorted(found, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n)):
        yield name, importlib.import_module(f"{package.__name__}.{name}")


def _sidecar(
    path: Path, records: Records, run_ids: list[str], commands: list[str], sources: list[str]
) -> None:
    """run_ids and config_ids are hashes of configs, with and without the seed."""
    used = records.runs[records.runs["run_id"].isin(run_ids)]
    simulated = records.mcu[
        records.mcu["command"].isin(commands) & records.mcu["run_id"].isin(run_ids)
    ]
    value = {
        "run_ids": run_ids,
        "config_ids": sorted(set(used["group_id"])),
        "published": sources,
        "flags": protocol.flags(records),
        "commits": sorted({*used["commit"].dropna(), *simulated["commit"].dropna()}),
        "from_changed_files": sorted(
            {
                run_id
                for made in (used, simulated)
                for run_id in made[made["dirty"].eq(True)]["run_id"]
            }
        ),
        "commands": commands or sorted(used["command"]),
        "written_by": f"tbn-bench {__version__}",
    }
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_tables(records: Records, folder: Path) -> dict[str, write.Table]:
    out = {}
    for name, module in entries(tables):
        table = getattr(module, name)(records)
        for old in folder.glob(f"{name}.*"):
            old.unlink()
        if table is None:
            continue
        for end, writer in (
            ("md", write.markdown),
            ("csv", write.comma_separated),
            ("tex", write.latex),
        ):
            (folder / f"{name}.{end}").write_text(writer(table), encoding="utf-8")
        _sidecar(folder / f"{name}.json", records, table.run_ids, table.commands, table.sources)
        out[name] = table
    return out


def _write_figure(name: str, records: Records, folder: Path) -> render.Drawn | None:
    """Its files; returns (title, Vega-Lite specification), None where there is nothing to draw."""
    module = importlib.import_module(f"{figures.__name__}.{name}")
    for old in folder.glob(f"{name}.*"):
        old.unlink()
    with style.printing():
        drawn = module.print_figure(records)
        if drawn is None:
            return None
        style.take_literally(drawn)
        drawn.draw_without_rendering()
        drawn.set_layout_engine("none")  # laid out once, not once for each format
        for end, metadata in _FORMATS.items():
            drawn.savefig(folder / f"{name}.{end}", metadata=metadata, dpi=200)
    frame = module.frame(records)
    run_ids, sources = protocol.origins(frame, records)
    _sidecar(folder / f"{name}.json", records, run_ids, frame.attrs.get("commands", []), sources)
    spec = specification(module, records)
    return None if spec is None else (module.TITLE, spec)


_given: list[Any] = []  # in a process that draws: records and folder


def _take(*given: Any) -> None:
    _given[:] = given


def _write_given(name: str) -> render.Drawn | None:
    return _write_figure(name, *_given)


@contextlib.contextmanager
def _drawing(records: Records, folder: Path) -> Iterator[Callable[[], dict[str, render.Drawn]]]:
    """Yields what gives name -> figure when all are drawn. Of many runs they are drawn meanwhile, by processes that take two seconds to start."""
    names = [name for name, _ in entries(figures)]
    if len(records.runs) < MANY:
        yield lambda: {
            name: made for name in names if (made := _write_figure(name, records, folder))
        }
        return
    workers = max(1, min(4, os.cpu_count() or 1))
    with ProcessPoolExecutor(workers, get_context("spawn"), _take, (records, folder)) as others:
        made = others.map(_write_given, names)
        yield lambda: {name: one for name, one in zip(names, made, strict=True) if one}


def specification(module: Any, records: Records) -> dict[str, Any] | None:
    """A figure's chart as Vega-Lite, of as many rows as there are."""
    with altair.data_transformers.enable("default", max_rows=None), warnings.catch_warnings():
        # one selection for all panels is what is meant
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        chart = module.chart(records)
        return None if chart is None else chart.to_dict()


def report(results: Path, out: Path, watch_s: float | None = None) -> dict[str, Any]:
    """Writes out/tables, out/figures and out/index.html; prints the comparisons. Raises ValueError where there are no records.

    watch_s: for a page that looks every so many seconds whether it was written again.
    """
    records = load(results)
    try:
        for folder in (out / "tables", out / "figures"):
            folder.mkdir(parents=True, exist_ok=True)
        with _drawing(records, out / "figures") as figures_of:
            built = _write_tables(records, out / "tables")
            book = details.book(results, records.curves)
            drawn = figures_of()
        command = f"tbn-bench report --results {results} --out {out}"
        text = render.page(records, built, drawn, book, results, command, _MAIN, watch_s)
        page = render.write(out, text, book)
    except OSError as error:
        raise RecordError(
            f"cannot write the report to {out}: {error.strerror}; choose another folder with --out"
        ) from error
    for name, table in built.items():
        if name.startswith(_MAIN) and not watch_s:
            tell(write.markdown(table))
    for problem in records.problems:
        tell(f"unreadable, left out: {problem}")
    tell(f"page: {page}")
    return {
        "page": str(page),
        "runs": len(records.runs),
        "finished": len(records.finished),
        "unreadable": len(records.problems),
    }
