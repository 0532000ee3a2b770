"""report(results, out): every table and figure as files, and one self-contained page.

Each table and figure has a sidecar with its provenance.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import altair

from tbn_bench import __version__
from tbn_bench.records.store import RecordError, tell
from tbn_bench.reporting import figures, protocol, style, tables, write
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.load import Records, load
from tbn_bench.reporting.page import details, render
from tbn_bench.reporting.table import Table

_FORMATS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
MANY = 100  # runs
_MAIN = "comparison"  # one table per track: comparison, comparison_w1a1, ...
_FIRST = (_MAIN, "accuracy_bits", "accuracy_latency", "training_curves")


def entries(package: Any) -> Iterator[tuple[str, Any]]:
    """(name, module) of every table or figure; the main ones first, then by name."""
    names = []
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            names.append(info.name)
    first = [name for name in _FIRST if name in names]
    others = [name for name in sorted(names) if name not in _FIRST]
    for name in first + others:
        module = importlib.import_module(f"{package.__name__}.{name}")
        yield name, module


def _sidecar(
    path: Path, records: Records, run_ids: list[str], commands: list[str], sources: list[str]
) -> None:
    """run_ids and config_ids are hashes of configs, with and without the seed."""
    runs = records.runs
    mcu = records.mcu
    used = runs[runs["run_id"].isin(run_ids)]
    simulated = mcu[mcu["command"].isin(commands) & mcu["run_id"].isin(run_ids)]
    commits: set[str] = set()
    changed: set[str] = set()
    for made in (used, simulated):
        commits.update(made["commit"].dropna())
        is_changed = made["dirty"].eq(True)
        changed.update(made[is_changed]["run_id"])

    value = {
        "run_ids": run_ids,
        "config_ids": sorted(set(used["group_id"])),
        "published": sources,
        "flags": protocol.flags(records),
        "commits": sorted(commits),
        "from_changed_files": sorted(changed),
        "commands": commands or sorted(used["command"]),
        "written_by": f"tbn-bench {__version__}",
    }
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_tables(records: Records, folder: Path) -> dict[str, Table]:
    out = {}
    for name, module in entries(tables):
        make = getattr(module, name)
        table = make(records)
        for old in folder.glob(f"{name}.*"):
            old.unlink()
        if table is None:
            continue

        texts = {
            "md": write.markdown(table),
            "csv": write.comma_separated(table),
            "tex": latex(table),
        }
        for end, text in texts.items():
            path = folder / f"{name}.{end}"
            path.write_text(text, encoding="utf-8")
        _sidecar(
            folder / f"{name}.json",
            records,
            table.run_ids,
            table.commands,
            table.sources,
        )
        out[name] = table
    return out


def _write_figure(name: str, records: Records, folder: Path) -> render.Drawn | None:
    """Writes its files. Returns (title, Vega-Lite specification), None if there is no data."""
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
    if spec is None:
        return None
    return module.TITLE, spec


_given: list[Any] = []  # records and folder, in a process that draws


def _take(*given: Any) -> None:
    _given[:] = given


def _write_given(name: str) -> render.Drawn | None:
    return _write_figure(name, *_given)


@contextlib.contextmanager
def _drawing(records: Records, folder: Path) -> Iterator[Callable[[], dict[str, render.Drawn]]]:
    """Yields a function that waits for all figures and returns name -> figure.

    The figures of many runs are drawn meanwhile, by processes that take two seconds to start.
    """
    names = [name for name, _ in entries(figures)]
    if len(records.runs) < MANY:
        yield lambda: _present(names, [_write_figure(name, records, folder) for name in names])
        return
    workers = max(1, min(4, os.cpu_count() or 1))
    with ProcessPoolExecutor(workers, get_context("spawn"), _take, (records, folder)) as others:
        made = others.map(_write_given, names)
        yield lambda: _present(names, made)


def _present(names: Iterable[str], made: Iterable[render.Drawn | None]) -> dict[str, render.Drawn]:
    """name -> figure, without those that have no data."""
    drawn = {}
    for name, figure in zip(names, made, strict=True):
        if figure is not None:
            drawn[name] = figure
    return drawn


def specification(module: Any, records: Records) -> dict[str, Any] | None:
    """A figure's chart as Vega-Lite, without a limit on its rows."""
    with altair.data_transformers.enable("default", max_rows=None), warnings.catch_warnings():
        # One selection for all panels is intended.
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        chart = module.chart(records)
        return None if chart is None else chart.to_dict()


def report(results: Path, out: Path, watch_s: float | None = None) -> dict[str, Any]:
    """Writes out/tables, out/figures and out/index.html; prints the comparisons.

    watch_s: the page looks for a newer one every so many seconds. Raises ValueError if there are no
    records.
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
