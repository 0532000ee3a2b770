"""Published numbers as hollow marks among ours; the tooltip names their source."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from tbn_bench import catalog
from tbn_bench.reporting import names, tracks
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import is_data, is_same
from tbn_bench.scores import SCORES

FLOAT = 32  # activation bits
METRIC = "top1"  # figures show this one; the table has a source's reruns and last epochs


def lines(records: Records) -> pd.DataFrame:
    """The ledger's accuracies that have a spec of ours."""
    ledger = records.published
    return ledger[(ledger["metric"] == METRIC) & ledger["spec"].notna()]


def of_panel(records: Records, gs: list[Group]) -> list[dict[str, Any]]:
    """Lines about the data set and model of a panel's groups, in their track.

    Full precision is in every track.
    """
    lowered = [g.track for g in gs if g.track != tracks.REFERENCE]
    bits = {tracks.activation_bits(track) for track in lowered} or {FLOAT}
    panel = gs[0].data, gs[0].model
    found = []
    for line in lines(records).to_dict("records"):
        width = line["activation_bits"]
        is_reference = line["method"] == "full_precision" and width == FLOAT
        if _is_about(panel, line["dataset"], line["model"]) and (width in bits or is_reference):
            found.append(line)
    return found


def _is_about(panel: tuple[str, str], data: Any, model: Any) -> bool:
    """Whether a published data set and model are a panel's (data, model)."""
    return is_data(data, panel[0]) and is_same(model, panel[1], True)


def others(
    records: Records, taken: list[tuple[str, str]]
) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(data set, model, lines) of published values about tiles and about no panel of ours.

    taken: our panels as (data, model).
    """
    found = lines(records)
    in_float = found[found["activation_bits"] == FLOAT]
    for (data, model), part in in_float.groupby(["dataset", "model"], sort=True):
        rows: list[dict[str, Any]] = part.to_dict("records")
        has_tiles = (part["method"] == "tbn").any()
        compares = len(set(part["spec"])) > 1
        if any(_is_about(panel, data, model) for panel in taken):
            continue
        if has_tiles and compares and not _is_free(model):
            yield str(data), str(model), rows


def _is_free(model: Any) -> bool:
    """Whether it is a paper's own name for a model, which no call of ours makes."""
    try:
        catalog.parse(str(model))
    except ValueError:
        return True
    return False


def mark(row: dict[str, Any]) -> dict[str, Any]:
    """A line as a row for _panels.frame, without panel and x."""
    score = SCORES[METRIC]
    hand = ", second-hand" if row["second_hand"] else ""
    method = names.method(row["spec"])
    return {
        "method": method,
        "label": f"{method}, published",
        "binarizer": row["spec"],
        "y": score.factor * row["value"],
        "axis": score.axis,
        "published": True,
        "runs": f"{row['source']}{hand}",
    }
