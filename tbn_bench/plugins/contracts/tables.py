"""What every table of a plugin does with made-up records."""

import dataclasses

from tbn_bench import catalog
from tbn_bench.plugins.contracts import _records
from tbn_bench.plugins.contracts.rule import Rule, require
from tbn_bench.reporting import write
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table


def made(call: str, records: Records) -> Table | None:
    """The table of an entry."""
    make = catalog.load("tables", call)
    found: Table | None = make(records)
    kind = type(found).__name__
    fits = found is None or isinstance(found, Table)
    require(fits, f"expected a Table, or None where there is nothing to show; got {kind}")
    return found


def gives_a_table(call: str) -> None:
    """A Table, and None or a Table without rows where no run is recorded."""
    made(call, _records.some())
    empty = made(call, without_runs())
    has_rows = empty is not None and bool(empty.rows)
    require(not has_rows, "it has rows although there are no records; return None there")


def without_runs() -> Records:
    """Records of no run."""
    some = _records.some()
    return dataclasses.replace(some, runs=some.runs.iloc[:0], curves=some.curves.iloc[:0])


def is_written(call: str) -> None:
    """As Markdown, CSV and LaTeX; every column can show every row."""
    table = made(call, _records.some())
    if table is None:
        return
    for form in (write.markdown, write.comma_separated, latex):
        form(table)


def names_its_runs(call: str) -> None:
    """run_ids are those of recorded runs."""
    records = _records.some()
    table = made(call, records)
    if table is None:
        return
    unknown = sorted(set(table.run_ids) - set(records.runs["run_id"]))
    require(not unknown, f"run_ids has {unknown}, expected ids of records.runs")


RULES = (
    Rule("it gives a Table, or None without records", gives_a_table),
    Rule("it can be written as Markdown, CSV and LaTeX", is_written),
    Rule("it names the runs that its numbers come from", names_its_runs),
)
