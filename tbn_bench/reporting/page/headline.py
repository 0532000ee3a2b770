"""The first thing on the page: per panel the smallest network beside full precision, with what was given up."""

from typing import Any

from tbn_bench.reporting import groups, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import SCORES


def rows(records: Records) -> list[dict[str, Any]]:
    """A row per panel that has full precision and something smaller."""
    found = []
    names = style.labels(records.runs["binarizer"])
    for title, gs in groups.panels([g for g in groups.groups(records) if g.result is not None]):
        full = next((g for g in gs if g.binarizer == "full_precision"), None)
        small = min(gs, key=lambda g: (g.first["bits_per_weight"], -SCORES[g.score].signed(g.result.mean)))
        if full is None or small is full:
            continue
        score = SCORES[full.score]
        found.append(
            {"panel": title, "method": names[small.binarizer], "bits": small.first["bits_per_weight"],
             "times": full.first["stored_bytes"] / small.first["stored_bytes"],
             "score": score.label.removesuffix(" %"), "small": score.text(small.result.mean), "full": score.text(full.result.mean),
             "seeds": f"{small.result.n} and {full.result.n}"}
        )  # fmt: skip
    return found


def lead(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    times = sorted(row["times"] for row in found)
    span = " to ".join(dict.fromkeys(f"{t:.0f}" for t in (times[0], times[-1])))
    where = f"{len(found)} comparisons" if len(found) > 1 else found[0]["panel"]
    return f"In {where}, the smallest network takes {span} times fewer bytes than full precision. What it gives up:"


def table(found: list[dict[str, Any]]) -> Table:
    columns = [
        column("panel", "data and model", numeric=False), Column("times", "bytes, times fewer", lambda r: f"{r['times']:.0f}×"),
        Column("small", "its score", lambda r: f"{r['score']} {r['small']}", numeric=False),
        Column("full", "full precision", lambda r: r["full"], numeric=False), column("method", "smallest network", numeric=False),
        column("bits", "bits per weight", ".2f"), column("seeds", "seeds", numeric=False),
    ]  # fmt: skip
    return Table("At a glance", columns, found)
