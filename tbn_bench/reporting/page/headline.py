"""The first thing on the page.

Per panel it shows full precision, the smallest network of all, and the smallest that stays close.
"""

from typing import Any

from tbn_bench.reporting import groups, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Table, column
from tbn_bench.scores import SCORES, Score

# How much worse a close score may be.
POINTS = 0.02  # of a score that is a share, absolutely
SHARE = 0.1  # of an error, relatively


def rows(records: Records) -> list[dict[str, Any]]:
    """A row per panel that has full precision and something smaller.

    Keys of the smallest network begin with small_, of the close one with close_.
    """
    found = []
    names = style.labels(records.runs["binarizer"])
    finished = [g for g in groups.groups(records) if g.result is not None]
    for title, gs in groups.panels(finished):
        full = next((g for g in gs if g.binarizer == "full_precision"), None)
        order = sorted(gs, key=_size_then_score)
        if full is None or order[0] is full:
            continue
        score = SCORES[full.score]
        name = score.label.removesuffix(" %")
        full_score = score.text(full.result.mean)
        row = {"panel": title, "full": f"{name} {full_score}"}
        close = next(g for g in order if _close(score, g.result.mean, full.result.mean))
        for key, g in (("small", order[0]), ("close", close)):
            if g is full:
                continue
            row[f"{key}_method"] = names[g.binarizer]
            row[f"{key}_score"] = score.text(g.result.mean)
            row[f"{key}_times"] = full.first["stored_bytes"] / g.first["stored_bytes"]
        seeds = [str(g.result.n) for g in (full, close, order[0])]
        found.append(row | {"seeds": ", ".join(seeds)})
    return found


def _size_then_score(g: groups.Group) -> tuple[float, float]:
    """Smaller networks first; of one size, the better one."""
    return g.first["bits_per_weight"], -SCORES[g.score].signed(g.result.mean)


def _close(score: Score, value: float, full: float) -> bool:
    if score.goal == "max":
        return value >= full - POINTS
    return value <= full * (1 + SHARE)


def _span(found: list[dict[str, Any]], key: str) -> str:
    """ "4 to 32", or one number."""
    times = sorted(row[key] for row in found if key in row)
    ends = dict.fromkeys(f"{t:.0f}" for t in (times[0], times[-1]))
    return " to ".join(ends)


def lead(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    where = f"{len(found)} comparisons" if len(found) > 1 else found[0]["panel"]
    text = (
        f"In {where}, full precision takes {_span(found, 'small_times')} times the bytes of the "
        "smallest network"
    )
    within = f"within {100 * POINTS:.0f} points of its score (errors: {100 * SHARE:.0f} %)"
    close = [row for row in found if "close_times" in row]
    if not close:
        return f"{text}. No smaller network is {within}."
    where = "" if len(close) == len(found) else f" in {len(close)} of them"
    times = _span(close, "close_times")
    return f"{text}, and {times} times those of the smallest network {within}{where}."


def table(found: list[dict[str, Any]]) -> Table:
    columns = [
        column("panel", "data and model", numeric=False),
        column("full", "full precision", numeric=False),
        *_columns("close", "smallest within 2 points"),
        *_columns("small", "smallest of all"),
        column("seeds", "seeds", numeric=False),
    ]
    return Table("At a glance", columns, found)


def _columns(key: str, header: str) -> list[Column]:
    """Method, score and compression of the small or the close network."""
    times_key = f"{key}_times"

    def times(row: dict[str, Any]) -> str:
        return f"{row[times_key]:.0f}×" if times_key in row else "—"

    return [
        column(f"{key}_method", header, numeric=False),
        column(f"{key}_score", "its score", numeric=False),
        Column(times_key, "bytes, times fewer", times),
    ]
