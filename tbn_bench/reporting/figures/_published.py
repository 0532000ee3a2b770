"""Published numbers as marks beside ours: hollow, with their source under the pointer."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from tbn_bench import catalog
from tbn_bench.reporting import tracks
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import is_same
from tbn_bench.scores import SCORES

FLOAT = 32  # activation bits
METRIC = "top1"  # what a source reports; its reruns and last epochs stand in the table


def lines(records: Records) -> pd.DataFrame:
    """The ledger's accuracies that a spec of ours names."""
    ledger = records.published
    return ledger[(ledger["metric"] == METRIC) & ledger["spec"].notna()]


def of_panel(records: Records, gs: list[Group]) -> list[dict[str, Any]]:
    """Lines about the data set and model of a panel's groups, in their track; full precision is in every track."""
    bits = {tracks.activation_bits(g.track) for g in gs if g.track != tracks.REFERENCE} or {FLOAT}
    return [
        r
        for r in lines(records).to_dict("records")
        if is_same(r["dataset"], gs[0].data, True) and is_same(r["model"], gs[0].model, True)
        and (r["activation_bits"] in bits or (r["method"] == "full_precision" and r["activation_bits"] == FLOAT))
    ]  # fmt: skip


def others(
    records: Records, taken: list[tuple[str, str]]
) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(data set, model, lines) of what is published about tiles and about no panel of ours, given as (data, model) in `taken`."""
    found = lines(records)
    for (data, model), part in found[found["activation_bits"] == FLOAT].groupby(
        ["dataset", "model"], sort=True
    ):
        rows: list[dict[str, Any]] = part.to_dict("records")
        mine = any(is_same(data, d, True) and is_same(model, m, True) for d, m in taken)
        if (
            not mine
            and (part["method"] == "tbn").any()
            and len(set(part["spec"])) > 1
            and not _is_free(model)
        ):
            yield str(data), str(model), rows


def _is_free(model: Any) -> bool:
    """A paper's own name for a model, which no call of ours makes."""
    try:
        catalog.parse(str(model))
    except ValueError:
        return True
    return False


def mark(row: dict[str, Any]) -> dict[str, Any]:
    """What a frame of _panels needs of a line, without panel, method and x."""
    score, hand = SCORES[METRIC], ", second-hand" if row["second_hand"] else ""
    return {"binarizer": row["spec"], "y": score.factor * row["value"], "axis": score.axis,
            "published": True, "runs": f"{row['source']}{hand}"}  # fmt: skip
