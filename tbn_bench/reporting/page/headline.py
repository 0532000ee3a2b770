"""The first thing on the page: per panel full precision, the smallest network of all, and the smallest that stays close to it."""

from typing import Any

from tbn_bench.reporting import groups, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import SCORES, Score

POINTS, SHARE = (
    0.02,
    0.1,
)  # what "close" allows: of a score that is a share, absolutely; of an error, relatively


def rows(records: Records) -> list[dict[str, Any]]:
    """A row per panel that has full precision and something smaller. Keys of the smallest begin with small_, of the close one with close_."""
    found = []
    names = style.labels(records.runs["binarizer"])
    for title, gs in groups.panels([g for g in groups.groups(records) if g.result is not None]):
        full = next((g for g in gs if g.binarizer == "full_precision"), None)
        order = sorted(
            gs, key=lambda g: (g.first["bits_per_weight"], -SCORES[g.score].signed(g.result.mean))
        )
        if full is None or order[0] is full:
            continue
        score = SCORES[full.score]
        close = next(g for g in order if _close(score, g.result.mean, full.result.mean))
        row = {
            "panel": title,
            "full": f"{score.label.removesuffix(' %')} {score.text(full.result.mean)}",
        }
        for key, g in (("small", order[0]), ("close", close)):
            if g is not full:
                row |= {
                    f"{key}_method": names[g.binarizer], f"{key}_score": score.text(g.result.mean),
                    f"{key}_times": full.first["stored_bytes"] / g.first["stored_bytes"],
                }  # fmt: skip
        found.append(row | {"seeds": ", ".join(str(g.result.n) for g in (full, close, order[0]))})
    return found


def _close(score: Score, value: float, full: float) -> bool:
    if score.goal == "max":
        return value >= full - POINTS
    return value <= full * (1 + SHARE)


def _span(found: list[dict[str, Any]], key: str) -> str:
    times = sorted(row[key] for row in found if key in row)
    return " to ".join(dict.fromkeys(f"{t:.0f}" for t in (times[0], times[-1])))


def lead(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    where = f"{len(found)} comparisons" if len(found) > 1 else found[0]["panel"]
    text = f"In {where}, the smallest network takes {_span(found, 'small_times')} times fewer bytes than full precision"
    close = [row for row in found if "close_times" in row]
    if not close:
        return f"{text}; none stays within {100 * POINTS:.0f} points of it (of errors: {100 * SHARE:.0f} %)."
    where = "" if len(close) == len(found) else f" in {len(close)} of them"
    return (
        f"{text}; the smallest that stays within {100 * POINTS:.0f} points of it (of errors: {100 * SHARE:.0f} %){where}, "
        f"{_span(close, 'close_times')} times."
    )


def table(found: list[dict[str, Any]]) -> Table:
    columns = [
        column("panel", "data and model", numeric=False),
        column("full", "full precision", numeric=False),
    ]
    for key, what in (("close", "smallest within 2 points"), ("small", "smallest of all")):
        columns += [
            column(f"{key}_method", what, numeric=False), column(f"{key}_score", "its score", numeric=False),
            Column(f"{key}_times", "bytes, times fewer", lambda r, key=f"{key}_times": f"{r[key]:.0f}×" if key in r else "—"),
        ]  # fmt: skip
    return Table("At a glance", [*columns, column("seeds", "seeds", numeric=False)], found)
