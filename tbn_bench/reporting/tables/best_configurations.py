"""Of each sweep that searched settings: the best configuration of every method.

It is chosen on held-out data and scored on the test set.
"""

from typing import Any

from tbn_bench.reporting import names, style
from tbn_bench.reporting.groups import Group, Panel, groups, panel_titles
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.settings import Settings, settings
from tbn_bench.reporting.table import Column, Row, Table, column, run_ids, text_column
from tbn_bench.scores import SCORES

_RAW = (
    "sweep",
    "group_id",
    "data",
    "network",
    "method",
    "binarizer",
    "settings",
    "tried",
    "held_out",
    "runner_up",
    "test",
    "test_half",
    "n",
)


def searches(records: Records) -> dict[Panel, list[Group]]:
    """Panels in which some method has several finished configurations."""
    panels: dict[Panel, list[Group]] = {}
    for g in groups(records):
        if g.result is not None and g.held_out is not None:
            panels.setdefault(g.panel, []).append(g)
    found = {}
    for panel, members in panels.items():
        if len({g.binarizer for g in members}) < len(members):
            found[panel] = members
    return found


def best_first(found: list[Group]) -> list[Group]:
    """By the score on held-out data; the first of equal ones stays first."""

    def place(g: Group) -> float:
        assert g.held_out is not None
        return -SCORES[g.score].signed(g.held_out)

    return sorted(found, key=place)


def best_configurations(records: Records) -> Table | None:
    """A row per sweep, data set, network and method; None if no sweep searched."""
    found = searches(records)
    titles = panel_titles(g.panel for g in groups(records))
    rows: list[Row] = []
    winners = []
    for panel, members in found.items():
        own = _rows(records, members)
        rows += own
        winners.append(f"{titles[panel]}: {_winner(own[0])}.")
    if not rows:
        return None
    columns = [
        text_column("data", "data"),
        text_column("network", "network"),
        text_column("method", "method"),
        Column("test", "test score (95 % interval)", _test),
        column("n", "seeds", "d"),
        Column("held_out", "held-out score", _held_out),
        Column("runner_up", "of the second best", _runner_up),
        column("tried", "of configurations", "d"),
        text_column("settings", "best settings"),
        text_column("edge", "at the edge of the values tried"),
        text_column("sweep", "sweep"),
    ]
    note = (
        "The best configuration of a method has the best mean score on held-out data; the test "
        "score was not used. The best of many configurations looks better on held-out data than "
        f"it is: compare test scores. Best of each sweep. {' '.join(winners)}"
    )
    return Table("Best configurations", columns, rows, note, run_ids(rows), raw=_RAW)


def _rows(records: Records, members: list[Group]) -> list[Row]:
    """The best configuration of each method, the best method first."""
    shared = settings(records, members)
    by_method: dict[str, list[Group]] = {}
    for g in best_first(members):
        by_method.setdefault(g.binarizer, []).append(g)
    return [_row(tried, shared) for tried in by_method.values()]


def _row(tried: list[Group], shared: Settings) -> Row:
    """tried: the configurations of one method, the best first."""
    g = tried[0]
    assert g.result is not None
    return {
        "sweep": g.sweep,
        "group_id": g.group_id,
        "data": names.data_set(g.data),
        "network": names.network(g.model),
        "method": g.label,
        "binarizer": g.binarizer,
        "settings": shared.of(g),
        "edge": ", ".join(shared.edges(g, tried)) or None,
        "tried": len(tried),
        "runner_up": tried[1].held_out if len(tried) > 1 else None,
        "score": g.score,
        "held_out": g.held_out,
        "test": g.result.mean,
        "test_half": g.result.half,
        "n": g.result.n,
        "run_ids": g.run_ids,
    }


def _winner(row: Row) -> str:
    seeds = "one seed" if row["n"] == 1 else f"{row['n']} seeds"
    edge = f"; at the edge of the values tried: {row['edge']}" if row["edge"] else ""
    return (
        f"{row['method']} with {row['settings']} (held-out {_held_out(row)}, test {_test(row)}, "
        f"{seeds}{edge})"
    )


def _held_out(row: dict[str, Any]) -> str:
    return SCORES[row["score"]].text(row["held_out"])


def _runner_up(row: dict[str, Any]) -> str:
    return style.DASH if row["runner_up"] is None else SCORES[row["score"]].text(row["runner_up"])


def _test(row: dict[str, Any]) -> str:
    score = SCORES[row["score"]]
    if row["test_half"] is None:
        return score.text(row["test"])
    return f"{score.text(row['test'])} ± {score.text(row['test_half'], False)}"
