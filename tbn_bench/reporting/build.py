"""report(results, out): every table and figure as files, with a provenance sidecar each, and one self-contained page."""

import importlib
import json
import pkgutil
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment

from tbn_bench import __version__
from tbn_bench.records import RecordError
from tbn_bench.reporting import figures, groups, style, tables, write
from tbn_bench.reporting.load import Records, load
from tbn_bench.scores import SCORES, shown

_FORMATS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
_MAIN = "comparison"  # one table per track: comparison, comparison_w1a1, ...
_FIRST = (_MAIN, "accuracy_bits")


def entries(package: Any) -> Iterator[tuple[str, Any]]:
    """(name, module) of every table or figure; the main one first, then by name."""
    found = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    for name in sorted(found, key=lambda n: (n not in _FIRST, n)):
        yield name, importlib.import_module(f"{package.__name__}.{name}")


def _sidecar(path: Path, records: Records, run_ids: list[str], commands: list[str]) -> None:
    used = records.runs[records.runs["run_id"].isin(run_ids)]
    value = {
        "run_ids": run_ids,
        "commits": sorted(set(used["commit"].dropna())),
        "from_changed_files": sorted(used[used["dirty"].eq(True)]["run_id"]),
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
        for end, writer in (("md", write.markdown), ("csv", write.comma_separated), ("tex", write.latex)):
            (folder / f"{name}.{end}").write_text(writer(table), encoding="utf-8")
        _sidecar(folder / f"{name}.json", records, table.run_ids, table.commands)
        out[name] = table
    return out


def _write_figures(records: Records, folder: Path) -> dict[str, tuple[str, str]]:
    """Files of every figure; returns name -> (title, Vega-Lite specification as JSON)."""
    out = {}
    run_ids = sorted(records.finished["run_id"])
    for name, module in entries(figures):
        for old in folder.glob(f"{name}.*"):
            old.unlink()
        with style.printing():
            drawn = module.print_figure(records)
            if drawn is None:
                continue
            for end, metadata in _FORMATS.items():
                drawn.savefig(folder / f"{name}.{end}", metadata=metadata, dpi=200)
        _sidecar(folder / f"{name}.json", records, run_ids, [])
        with warnings.catch_warnings():  # one selection for all panels is what is meant
            warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
            out[name] = (module.TITLE, module.chart(records).to_json(indent=None))
    return out


def _headline(records: Records) -> list[str]:
    """One sentence per panel: the smallest network beside full precision, with what was given up."""
    out = []
    for title, found in groups.panels([g for g in groups.groups(records) if g.result is not None]):
        full = next((g for g in found if g.binarizer == "full_precision"), None)
        small = min(found, key=lambda g: (g.first["bits_per_weight"], -SCORES[g.score].signed(g.result.mean)))
        if full is None or small is full:
            continue
        score = SCORES[full.score]
        name = style.labels(records.runs["binarizer"])[small.binarizer]
        times = full.first["stored_bytes"] / small.first["stored_bytes"]
        out.append(
            f"{title}: {name} keeps {small.first['bits_per_weight']:.2f} bits per weight and {times:.0f} times fewer bytes than full "
            f"precision, at {score.label.removesuffix(' %')} {score.text(small.result.mean)} against {score.text(full.result.mean)} "
            f"(n = {small.result.n} and {full.result.n})."
        )
    return out


def _page(records: Records, built: dict[str, write.Table], drawn: dict[str, tuple[str, str]], command: str) -> str:
    template = files("tbn_bench.reporting").joinpath("page.html.j2").read_text(encoding="utf-8")
    sections = [(name, t.title, write.markup(t)) for name, t in built.items()]
    runs = records.runs.astype(object).where(records.runs.notna(), None).to_dict("records")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        headline=_headline(records),
        main_tables=[shown for shown in sections if shown[0].startswith(_MAIN)],
        other_tables=[shown for shown in sections if not shown[0].startswith(_MAIN)],
        charts=[(name, title, spec.replace("</", "<\\/")) for name, (title, spec) in drawn.items()],
        runs=runs,
        text=style.text,
        problems=records.problems,
        dirty=int(records.runs["dirty"].eq(True).sum()),
        command=command,
        version=__version__,
        shown=shown,
        bundle=vl_convert.javascript_bundle().replace("</script", "<\\/script"),
    )  # fmt: skip


def report(results: Path, out: Path) -> dict[str, Any]:
    """Writes out/tables, out/figures and out/index.html; prints the comparisons. Raises ValueError where there are no records."""
    records = load(results)
    try:
        for folder in (out / "tables", out / "figures"):
            folder.mkdir(parents=True, exist_ok=True)
        built = _write_tables(records, out / "tables")
        drawn = _write_figures(records, out / "figures")
        command = f"tbn-bench report --results {results} --out {out}"
        page = out / "index.html"
        page.write_text(_page(records, built, drawn, command), encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot write the report to {out}: {error.strerror}; choose another folder with --out") from error
    for name, table in built.items():
        if name.startswith(_MAIN):
            print(write.markdown(table))
    for problem in records.problems:
        print(f"unreadable, left out: {problem}")
    print(f"page: {page}")
    return {"page": str(page), "runs": len(records.runs), "finished": len(records.finished), "unreadable": len(records.problems)}
